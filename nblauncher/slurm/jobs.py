"""What Slurm says about the class's jobs: one question for all of them, and an answer that no student can forge.

A student may write any text into the job's name and comment, line breaks too. So each line that counts has a random
word of this very question behind the job's number, and the comment is the last column.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from nblauncher.errors import HostError
from nblauncher.model import SlurmSettings
from nblauncher.slurm import tools
from nblauncher.system import processes


class JobState(str, Enum):
    """What a job's state means for its student."""

    HELD = "held"  # it will not start before somebody releases it
    QUEUED = "queued"
    STARTING = "starting"  # its node is being prepared
    RUNNING = "running"
    SUSPENDED = "suspended"
    ENDING = "ending"
    ENDED = "ended"
    GONE = "gone"  # Slurm answered, and no longer has the job
    UNKNOWN = "unknown"  # Slurm did not answer, or with a state that nobody knows


_STATES = {
    "PENDING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "CONFIGURING": JobState.STARTING,
    "POWER_UP_NODE": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.ENDING,
    "COMPLETING": JobState.ENDING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    **dict.fromkeys(
        (
            *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
            *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
        ),
        JobState.ENDED,
    ),
}
LIVE = frozenset(
    {JobState.HELD, JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.SUSPENDED, JobState.ENDING}
)
"""There is still something to cancel or to wait for."""


@dataclass(frozen=True, slots=True)
class Job:
    """`word` and `reason` are Slurm's own. `comment` was written by the student."""

    id: int
    state: JobState
    uid: int = -1
    word: str = ""
    node: str = ""
    """Where the batch script runs or ran; empty before."""
    restarts: int = 0
    wait_status: int = 0
    """Of the batch script (wait(2)), once it ended."""
    starts_at: int | None = None
    """Unix seconds: when it started, or while it is queued when Slurm expects to start it."""
    left: int | None = None
    """Seconds until its time limit; None: there is none."""
    reason: str = ""
    admin_comment: str = ""
    """Only root can write it."""
    comment: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True, slots=True)
class Query:
    """What to run, as root, and what `read` needs for the answer."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ids: tuple[int, ...]
    nonce: str


_COLUMNS = {
    "userid": 12,
    "state": 16,
    "batchhost": 64,
    "restartcnt": 8,
    "exit_code": 12,
    "starttime": 24,
    "timeleft": 20,
    "reason": 80,
    "admin_comment": 64,
}
"""With their widths: what is longer is cut. The first column is the job's number, and the last one its comment."""
_BEFORE_ADMIN = len(_COLUMNS) - 1
_COMMENT_WIDTH = 200
_ACCOUNTING = 5.0
"""Seconds for a question to the accounting, whose answer only makes a reason clearer."""


def query(settings: SlurmSettings, ids: Collection[int], *, nonce: str = "") -> Query:
    """One call of squeue for all of these jobs, also those that ended in the last minutes. `nonce` is for tests."""
    if not ids or min(ids) <= 0:
        # squeue takes an empty list for everybody's jobs.
        raise ValueError(f"no jobs to ask for: {sorted(ids)}")
    nonce = nonce or secrets.token_hex(8)
    columns = [f"jobid:14|{nonce}|", *(f"{name}:{width}|" for name, width in _COLUMNS.items())]
    listed = tuple(sorted(set(ids)))
    argv = ("squeue", "--noheader", "--all", "--states=all", f"--jobs={','.join(map(str, listed))}", "--Format")
    return Query((*argv, ",".join((*columns, f"comment:{_COMMENT_WIDTH}"))), tools.environment(settings), listed, nonce)


def read(asked: Query, status: int, output: str, complaints: str) -> dict[int, Job]:
    """Every job that was asked for. `status` is squeue's exit status, any other number if it was killed."""
    if status != 0:
        # For a single job squeue fails if Slurm has forgotten it; of several it lists those that it knows.
        is_gone = "Invalid job id specified" in complaints and len(asked.ids) == 1
        return {number: Job(number, JobState.GONE if is_gone else JobState.UNKNOWN) for number in asked.ids}
    found = {number: Job(number, JobState.GONE) for number in asked.ids}
    head = re.compile(rf"^ *([0-9]{{1,12}}) *\|{re.escape(asked.nonce)}\|", re.M)
    matches = list(head.finditer(output))
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        number = int(match[1])
        if number in found:
            found[number] = _job(number, output[match.end() : following.start() if following else len(output)])
    return found


def poll(settings: SlurmSettings, ids: Collection[int], *, timeout: float = tools.PATIENCE) -> dict[int, Job]:
    """`query` and `read` in one, for a caller that may wait. Empty for no jobs; HostError where Slurm is missing."""
    if not ids:
        return {}
    asked = query(settings, ids)
    try:
        output = tools.call(settings, *asked.argv, timeout=timeout)
    except tools.UnansweredError:
        return read(asked, -1, "", "")
    except HostError as error:
        if "Invalid job id specified" not in error.problem:
            raise
        return read(asked, 1, "", error.problem)
    return read(asked, 0, output, "")


def running_of(settings: SlurmSettings, uids: Collection[int]) -> dict[int, list[int]]:
    """The jobs of these users that run at the moment, whoever submitted them: uid → numbers."""
    if not uids:
        return {}
    # Columns that no user can write.
    which = (f"--user={','.join(map(str, sorted(uids)))}", "--states=RUNNING,COMPLETING", "--format=%A|%U")
    found: dict[int, list[int]] = {}
    listed = tools.call(settings, "squeue", "--noheader", "--all", *which)
    for number, uid in re.findall(r"^([0-9]+)\|([0-9]+)$", listed, re.M):
        found.setdefault(int(uid), []).append(int(number))
    return found


def cancelled_by(settings: SlurmSettings, ids: Collection[int]) -> dict[int, int]:
    """The uids that cancelled these jobs, by one question. Only a cluster with accounting remembers them."""
    if not ids:
        return {}
    which = f"--jobs={','.join(map(str, sorted(ids)))}"
    try:
        output = tools.call(settings, "sacct", "-n", "-P", "-X", which, "--format=JobIDRaw,State", timeout=_ACCOUNTING)
    except HostError:
        return {}
    return {int(job): int(uid) for job, uid in re.findall(r"^([0-9]+)\|CANCELLED by ([0-9]+)$", output, re.M)}


def _job(number: int, text: str) -> Job:
    """From the columns behind the job's number."""
    parts = text.split("|", _BEFORE_ADMIN)
    if len(parts) <= _BEFORE_ADMIN:
        return Job(number, JobState.UNKNOWN)
    uid, word, node, restarts, ended, starts, left, reason = (part.strip() for part in parts[:_BEFORE_ADMIN])
    width = _COLUMNS["admin_comment"]
    admin_comment, comment = parts[_BEFORE_ADMIN][:width], parts[_BEFORE_ADMIN][width + 1 :]
    return Job(
        number,
        _state(word, reason),
        uid=_number(uid, -1),
        word=word,
        node=_unless_empty(node),
        restarts=_number(restarts, 0),
        wait_status=_wait_status(ended),
        starts_at=int(starts) if starts.isdecimal() else None,
        left=seconds(left),
        reason=_unless_empty(reason),
        admin_comment=_unless_empty(admin_comment.strip()),
        comment=_unless_empty(comment.strip()),
    )


def _state(word: str, reason: str) -> JobState:
    state = _STATES.get(word, JobState.UNKNOWN)
    if state is JobState.QUEUED and "held" in reason.lower():
        return JobState.HELD
    return state


def _unless_empty(text: str) -> str:
    return "" if text in ("(null)", "n/a", "N/A", "None") else text


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdecimal() else otherwise


def _wait_status(text: str) -> int:
    """Written as the wait status itself, or as `code:signal`."""
    code, _, number = text.partition(":")
    if number:
        return _number(code, 0) << 8 | _number(number, 0)
    return _number(code, 0)


def seconds(text: str) -> int | None:
    """Slurm's `1-02:03:04`, `29:58` or `UNLIMITED`."""
    match = re.fullmatch(r"(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):([0-9]+)", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def exit_words(job: Job) -> str:
    return processes.exit_words(job.wait_status)
