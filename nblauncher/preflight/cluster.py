"""A cluster with Slurm: whether the jobs of a class can run there, and what Slurm does not hold students to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from nblauncher.config.settings import Settings
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Limits, SlurmSettings
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.slurm import site as sites
from nblauncher.slurm.site import Partition, Site
from nblauncher.system import memory

_MIB = 1 << 20
_NAMED = 8
_LEAST_JOB_AGE = 30
_LOOK = "`sinfo` lists partitions and nodes."


def findings(settings: Settings, usernames: Sequence[str]) -> list[Finding]:
    """Everything that can be seen without a job. A cluster that cannot be asked is one problem."""
    try:
        site = sites.survey(settings.slurm)
    except (HostError, RefusedError) as error:
        return [problem("cluster", error.problem, error.hint or "Ask the cluster's administrator.")]
    return [*judged(settings, site, usernames), *associations(settings.slurm, site, usernames)]


def require(settings: Settings) -> None:
    """RefusedError where no job of the class could ever run; HostError when the cluster cannot be asked."""
    site = sites.survey(settings.slurm)
    for finding in judged(settings, site, ()):
        if finding.level == "problem":
            raise RefusedError(finding.message, finding.hint)


def judged(settings: Settings, site: Site, usernames: Sequence[str]) -> Iterator[Finding]:
    wanted = site.wanted(settings.slurm)
    version = ".".join(map(str, site.version))
    yield ok("cluster", f"Slurm {version} answers: {_names(site.partitions)}")
    if settings.accounts.create:
        yield warning(
            "cluster",
            "accounts.create is true: the nodes know the accounts made here only if they share this host's accounts",
            "Set accounts.create: false where accounts come from a directory (LDAP).",
        )
    yield from partitions(settings.slurm, site)
    if wanted:
        yield from time(settings.slurm, wanted)
        yield from size(settings.limits, wanted)
        yield from nodes(wanted)
        yield from seats(settings.limits, wanted, len(usernames))
    yield from reservation(settings.slurm, site, usernames)
    yield from holding(site)


def partitions(settings: SlurmSettings, site: Site) -> Iterator[Finding]:
    for name in filter(None, settings.partition.split(",")):
        if name not in site.partitions:
            yield problem(
                "partition",
                f"the cluster has no partition {name}; it has {_names(site.partitions)}",
                "Correct slurm.partition.",
            )
    wanted = site.wanted(settings)
    if not settings.partition and not wanted:
        yield problem(
            "partition",
            f"the cluster has no default partition, only {_names(site.partitions)}",
            "Name one of them in slurm.partition.",
        )
    for one in wanted:
        if one.state != "UP":
            yield problem(
                "partition",
                f"the partition {one.name} is {one.state}: it starts no job",
                "Ask the cluster's administrator, or name another in slurm.partition.",
            )


def time(settings: SlurmSettings, wanted: Sequence[Partition]) -> Iterator[Finding]:
    """How long a server may run."""
    longest = None if any(one.max_minutes is None for one in wanted) else max(one.max_minutes or 0 for one in wanted)
    if settings.time is not None:
        if longest is not None and settings.time > longest:
            yield problem(
                "time",
                f"slurm.time is {settings.time} minutes, and {_all(wanted)} at most {longest}",
                "Shorten slurm.time, or name another partition: such a job would wait for ever.",
            )
        else:
            yield ok("time", f"a server runs for {settings.time} minutes at most")
        return
    limits = [one.default_minutes if one.default_minutes is not None else one.max_minutes for one in wanted]
    if any(limit is not None for limit in limits):
        least = min(limit for limit in limits if limit is not None)
        yield warning(
            "time",
            f"slurm.time is not set: after {least} minutes, the partition's default, Slurm ends a server",
            "Set slurm.time to the length of the lesson, if that is not enough.",
        )


def size(limits: Limits, wanted: Sequence[Partition]) -> Iterator[Finding]:
    """Whether one node has the memory and the processors that one student gets."""
    most = max((_megabytes(one) for one in wanted), default=0)
    if limits.memory is None:
        yield warning(
            "limits",
            "limits.memory is none: a server gets as much as the partition gives by default",
            "Set limits.memory to what one student needs.",
        )
    elif most and math.ceil(limits.memory / _MIB) > most:
        yield problem(
            "limits",
            f"limits.memory is {memory.words(limits.memory)}, and no node gives more than "
            f"{memory.words(most * _MIB)} to one job",
            f"Lower limits.memory, or name another partition. {_LOOK}",
        )
    cpus = max((_cpus(one) for one in wanted), default=0)
    if limits.cpus is not None and cpus and math.ceil(limits.cpus) > cpus:
        yield problem(
            "limits",
            f"limits.cpus is {limits.cpus:g}, and no node gives more than {cpus} to one job",
            f"Lower limits.cpus, or name another partition. {_LOOK}",
        )


def nodes(wanted: Sequence[Partition]) -> Iterator[Finding]:
    every = {node.name: node for one in wanted for node in one.nodes}
    usable = [name for name, node in every.items() if node.is_usable]
    lost = [f"{name} ({node.state})" for name, node in every.items() if not node.is_usable]
    if not usable:
        yield problem(
            "nodes",
            f"no node can start a job: {_names(lost) or 'there is none'}",
            "Ask the cluster's administrator; `sinfo -R` says why.",
        )
    elif lost:
        yield warning(
            "nodes",
            f"{len(usable)} of {len(every)} nodes can start jobs, not {_names(lost)}",
            "`sinfo -R` says why; `scontrol update nodename=NAME state=resume` brings one back.",
        )
    else:
        yield ok("nodes", f"{len(usable)} nodes can start jobs")


def seats(limits: Limits, wanted: Sequence[Partition], students: int) -> Iterator[Finding]:
    """How many students fit beside each other, if nobody else is on the cluster."""
    every = {node.name: node for one in wanted for node in one.nodes if node.is_usable}
    if not every or not students:
        return
    cpus = max(1, math.ceil(limits.cpus or 1))
    megabytes = max(1, math.ceil((limits.memory or _MIB) / _MIB))
    room = sum(min(node.cpus // cpus, node.megabytes // megabytes) for node in every.values())
    if room < students:
        yield warning(
            "nodes",
            f"{room} students fit on the nodes at the same time, of {students}; the others wait in the queue",
            "Lower limits.memory or limits.cpus, or set notebook.start: on-demand and notebook.idle_stop.",
        )


def reservation(settings: SlurmSettings, site: Site, usernames: Sequence[str]) -> Iterator[Finding]:
    if not settings.reservation:
        return
    found = site.reservation
    if found is None:
        yield problem(
            "reservation",
            f"the cluster has no reservation {settings.reservation}",
            "Ask the cluster's administrator for it (`scontrol create reservation`), or remove slurm.reservation.",
        )
        return
    if not found.is_active:
        yield warning(
            "reservation",
            f"the reservation {found.name} is not active at this moment",
            f"Jobs wait until it begins: `scontrol show res {found.name}` says when.",
        )
    strangers = sorted(set(usernames) - found.users) if found.users and not found.others else []
    if strangers:
        yield warning(
            "reservation",
            f"{len(strangers)} students may not use the reservation {found.name}: {_names(strangers)}",
            f"Ask the administrator: `scontrol update reservation={found.name} users+={','.join(strangers[:_NAMED])}`.",
        )
    elif found.is_active:
        yield ok("reservation", f"{found.name} is active")


def holding(site: Site) -> Iterator[Finding]:
    """What Slurm holds a student to, and what it does not."""
    if not site.kills_whatever_a_job_started:
        yield warning(
            "processes",
            f"the nodes use {site.config.get('ProctrackType', 'no tracking')}: a process that a student detaches "
            "survives the end of the job",
            "Ask the administrator for ProctrackType=proctrack/cgroup in slurm.conf.",
        )
    if not site.holds_memory:
        yield warning(
            "limits",
            "Slurm does not hold jobs to their memory here: one student can take the node's",
            "Ask for TaskPlugin=task/cgroup in slurm.conf and ConstrainRAMSpace=yes in cgroup.conf.",
        )
    elif site.kills_whatever_a_job_started:
        yield ok("limits", "the nodes hold jobs to their memory, and end whatever a job has started")
    if site.remembers_ended_jobs_for < _LEAST_JOB_AGE:
        yield warning(
            "cluster",
            f"Slurm forgets a job {site.remembers_ended_jobs_for} s after its end (MinJobAge), and its reason with it",
            "A server's end may be reported without a reason.",
        )


def associations(settings: SlurmSettings, site: Site, usernames: Collection[str]) -> list[Finding]:
    """Students from whom the accounting would take no job."""
    if not site.enforces_associations or not usernames:
        return []
    try:
        lacking = sites.without_association(settings, usernames, site.config.get("ClusterName", ""))
    except HostError as error:
        return [
            warning(
                "accounting",
                f"the site takes jobs only from users in its accounting, which did not answer: {error.problem}",
                "Try `sacctmgr list associations` on this host.",
            )
        ]
    if not lacking:
        return [ok("accounting", f"all {len(usernames)} students are in the site's accounting")]
    account = settings.account or "ACCOUNT"
    about = f" in the account {settings.account}" if settings.account else ""
    return [
        (problem if len(lacking) == len(set(usernames)) else warning)(
            "accounting",
            f"the site takes no jobs from {len(lacking)} students, who are not in its accounting{about}: "
            f"{_names(lacking)}",
            f"Ask the administrator: `sacctmgr add user {','.join(lacking[:_NAMED])} account={account}`.",
        )
    ]


def notes(settings: Settings, usernames: Collection[str]) -> list[str]:
    """What `setup` says of students from whom the cluster would take no job."""
    if settings.notebook.spawner != "slurm":
        return []
    try:
        found = associations(settings.slurm, sites.survey(settings.slurm), usernames)
    except (HostError, RefusedError) as error:
        return [f"the cluster could not be asked for the students' accounting: {error.problem}"]
    return [f"{finding.message}. {finding.hint}" for finding in found if finding.level != "ok"]


def _megabytes(one: Partition) -> int:
    """The most that one of its nodes gives to a job; 0 if unknown."""
    most = max((node.megabytes for node in one.nodes), default=0)
    return min(most, one.max_megabytes) if one.max_megabytes and most else most


def _cpus(one: Partition) -> int:
    most = max((node.cpus for node in one.nodes), default=0)
    return min(most, one.max_cpus) if one.max_cpus and most else most


def _all(wanted: Sequence[Partition]) -> str:
    names = _names([one.name for one in wanted])
    return f"the partition {names} allows" if len(wanted) == 1 else f"the partitions {names} allow"


def _names(names: Collection[str]) -> str:
    shown = [printable(name) for name in list(names)[:_NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
