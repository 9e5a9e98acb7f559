"""A job's state and Slurm's reason for it, in plain words."""

from __future__ import annotations

from nblauncher.model import OUT_OF_MEMORY
from nblauncher.printable import printable
from nblauncher.slurm.jobs import Job, JobState, exit_words

_WAITS = {
    "": "it was submitted a moment ago",
    "Resources": "it is next, and waits until a node has room",
    "Priority": "other jobs come first",
    "Reservation": "its reservation has not begun",
    "BeginTime": "it may not begin yet",
    "Licenses": "it waits for a license",
    "NodeDown": "its node is down",
    "PartitionDown": "the partition is closed for now",
    "PartitionInactive": "the partition is closed for now",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "MaxMemPerLimit": "it asks for more memory than the partition allows",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "PartitionConfig": "the partition does not allow what it asks for",
    "BadConstraints": "no node can run it",
}
"""Why a job is in the queue. The rest by the beginnings below."""
_BEGINNINGS = {
    "ReqNodeNotAvail": "the nodes that it may use are down or reserved for others",
    "Nodes required for job are": "the nodes that it may use are down or reserved for others",
    "Assoc": "a limit of its account is reached",
    "QOS": "a limit of its QOS is reached",
    "MaxSubmit": "a limit of its account is reached",
}
_HELD = {
    "JobHeldUser": "it was put on hold by its owner",
    "JobHeldAdmin": "it was put on hold by an administrator",
}
_ENDED = {
    "COMPLETED": "it ended by itself",
    "TIMEOUT": "its time limit was reached",
    "OUT_OF_MEMORY": f"it was ended {OUT_OF_MEMORY}",
    "PREEMPTED": "it was ended in favour of another job",
    "DEADLINE": "its deadline was reached",
    "BOOT_FAIL": "its node could not be started",
    "REVOKED": "it runs on another cluster",
}
HOPELESS = frozenset(
    {
        *("PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "BadConstraints", "MaxMemPerLimit"),
        *("InvalidAccount", "InvalidQOS"),
    }
)
"""Reasons for which a queued job would wait for ever: the settings ask for what the cluster does not have."""


def plain(job: Job, *, by: int | None = None) -> str:
    """`queued: other jobs come first`. `by` is the uid that cancelled it, if known."""
    if job.state is JobState.QUEUED:
        return f"queued: {waits(job.reason)}"
    if job.state is JobState.HELD:
        why = _HELD.get(job.reason) or f"Slurm holds it ({printable(job.reason or job.word)})"
        return f"held: {why}; an administrator must release or cancel it"
    if job.state is JobState.ENDED:
        return _ending(job, by)
    if job.state is JobState.GONE:
        return "Slurm no longer has this job"
    if job.state is JobState.UNKNOWN:
        return f"Slurm reports {printable(job.word)}" if job.word else "Slurm's controller does not answer"
    where = f" on {printable(job.node)}" if job.node else ""
    return f"{job.state.value}{where}"


def waits(reason: str) -> str:
    """Why a job is still in the queue."""
    if reason in _WAITS:
        return _WAITS[reason]
    for beginning, words in _BEGINNINGS.items():
        if reason.startswith(beginning):
            return f"{words} ({printable(reason)})"
    return f"Slurm says {printable(reason)}"


def _ending(job: Job, by: int | None) -> str:
    where = f" on {printable(job.node)}" if job.node else ""
    if job.word == "NODE_FAIL":
        return f"its node {printable(job.node)} failed" if job.node else "its node failed"
    if job.word == "CANCELLED":
        return f"it was cancelled by uid {by}" if by is not None else "it was cancelled"
    if job.word in _ENDED:
        return _ENDED[job.word]
    if job.reason == "JobLaunchFailure" and job.wait_status == 0:
        return f"it could not be started{where}"
    return f"it failed{where} ({exit_words(job)})"
