"""freeze and thaw: all processes of the given students are frozen until the teacher thaws them.

A small process stays behind and freezes new sign-ins, and new jobs on a cluster, until no student is frozen. Students
left frozen by a killed capture are thawed by the next command, whichever it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pwd
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nblauncher.commands.deadlines import job_freezer
from nblauncher.commands.deadlines.job_freezer import JobFreezer
from nblauncher.errors import BusyError, HostError
from nblauncher.isolation import cgroups, freeze_record
from nblauncher.isolation.cgroups import Groups, Kind
from nblauncher.isolation.freezer import Freezer, Student
from nblauncher.ledger import locked
from nblauncher.model import Account, ServerState
from nblauncher.planning import survey
from nblauncher.planning.host import Host, captures_lock
from nblauncher.planning.plan import Details, ForOne, Phase, Plan, SomeFailed
from nblauncher.supervisor.specs import ServerReport
from nblauncher.system import interruption, workers

log = logging.getLogger(__name__)

_LOOK = 0.25
"""Seconds between two looks for new sign-ins; for that long a new session can write."""
_LOOK_AT_JOBS = 2.0
"""The same for new jobs."""
_SEEN_WITHIN = 10.0
"""Seconds in which the supervisor's next look at the cluster tells what was done."""


def plan_freeze(host: Host, usernames: Sequence[str]) -> Plan:
    """Freeze these students, unless they are frozen already."""
    from nblauncher.commands.retrieve import notes

    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name not in frozen]
    jobs = (FreezeJobs(tuple(wanted)),) if on_a_cluster(host) else ()
    phases = (
        Phase("freeze", tuple(Freeze(name) for name in wanted)),
        Phase("freeze jobs", jobs),
        Phase("watch", (Watch(),)),
    )
    return Plan(phases if wanted else (), notes(usernames, facts))


def plan_thaw(host: Host, usernames: Sequence[str]) -> Plan:
    """Thaw the students frozen by `freeze`."""
    from nblauncher.commands.retrieve import notes

    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name in frozen]
    jobs = (ThawJobs(tuple(wanted)),) if wanted and on_a_cluster(host) else ()
    phases = (Phase("thaw", tuple(Thaw(name) for name in wanted)), Phase("thaw jobs", jobs))
    return Plan(phases, notes(usernames, facts))


def on_a_cluster(host: Host) -> bool:
    """Whether students' servers are jobs, or jobs are left from when they were."""
    jobs = jobs_by_command(host)
    return host.settings.notebook.spawner == "slurm" or bool(jobs.known() or jobs.recorded())


def jobs_by_command(host: Host) -> JobFreezer:
    return JobFreezer(host.settings.slurm, host.paths, job_freezer.BY_COMMAND)


def jobs_by_capture(host: Host) -> JobFreezer:
    return JobFreezer(host.settings.slurm, host.paths, job_freezer.BY_CAPTURE)


@dataclass(frozen=True)
class Freeze(ForOne):
    def describe(self) -> str:
        return f"freeze {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.student_account(host, self.username)
        groups = groups_of(host)
        freezer = Freezer(groups, on_demand(host))
        try:
            complaints = freezer.freeze(students(host, groups, [account]))
        except HostError:
            freezer.thaw([account.uid])
            raise
        if complaints:
            raise HostError(f"frozen, but {complaints[self.username]}", "Run `nblauncher launch` again.")
        return {self.username: {}}


@dataclass(frozen=True)
class FreezeJobs:
    """All in one call. A student whose job cannot be frozen is thawed here too: half frozen helps nobody."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"freeze the jobs of {', '.join(self.usernames)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        jobs = jobs_by_command(host)
        running = jobs.freeze(self.usernames)
        uids = {uid: name for name, uid in remembered(host).items() if name in running}
        Freezer(groups_of(host), on_demand(host)).thaw(list(uids))
        failures = {name: f"not frozen: {words}" for name, words in running.items()}
        others = {name: uid for name, uid in remembered(host).items() if name in self.usernames}
        failures |= {name: f"frozen, but {words}" for name, words in jobs.look(others).items()}
        waiting = "its job has not begun; it is frozen as soon as it runs"
        failures |= {name: f"not frozen yet: {waiting}" for name in jobs.waiting() if name not in failures}
        _wait_until_seen(host, [name for name in self.usernames if name not in failures], is_suspended=True)
        if failures:
            raise SomeFailed(failures, "Their work can change. `nblauncher shutdown --only` ends a server.")
        return {}


@dataclass(frozen=True)
class Watch:
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "watch for new sign-ins"

    def apply(self, host: Host) -> None:
        keep_watch(host)


@dataclass(frozen=True)
class Thaw(ForOne):
    def describe(self) -> str:
        return f"thaw {self.username}"

    def apply(self, host: Host) -> None:
        uids = [uid for uid, held in freeze_record.load(on_demand(host)).items() if held.username == self.username]
        Freezer(groups_of(host), on_demand(host)).thaw(uids)


@dataclass(frozen=True)
class ThawJobs:
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"thaw the jobs of {', '.join(self.usernames)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        failures = jobs_by_command(host).thaw(self.usernames)
        _wait_until_seen(host, [name for name in self.usernames if name not in failures], is_suspended=False)
        if failures:
            failures = {name: f"still frozen: {words}" for name, words in failures.items()}
            raise SomeFailed(failures, "A process stays behind and tries again every few seconds.")
        return {}


def _wait_until_seen(host: Host, usernames: Sequence[str], *, is_suspended: bool) -> None:
    """Until `status` says so: the supervisor looks at the cluster every few seconds."""
    from nblauncher.supervisor import client

    until = time.monotonic() + _SEEN_WITHIN
    while time.monotonic() < until:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return
        with supervisor:
            jobs = [report for report in supervisor.servers(usernames) if report.job is not None]
        if all(report.is_suspended == is_suspended for report in jobs):
            return
        interruption.sleep(_LOOK)


def on_demand(host: Host) -> Path:
    """The record of the students frozen by `freeze`. A reboot ends both."""
    return host.paths.run / freeze_record.BY_COMMAND


def by_capture(host: Host) -> Path:
    return host.paths.run / freeze_record.BY_CAPTURE


def remembered(host: Host) -> dict[str, int]:
    """Students frozen by `freeze`: username → uid."""
    jobs = {name: handle.uid for name, handle in jobs_by_command(host).recorded().items()}
    return {**jobs, **{held.username: uid for uid, held in freeze_record.load(on_demand(host)).items()}}


def words(host: Host) -> dict[str, str]:
    """Students frozen by any command: username → `frozen until ...`."""
    own = on_demand(host)
    found = dict.fromkeys(jobs_by_command(host).recorded(), "frozen until `nblauncher thaw`")
    for file in (*freeze_record.others(own), own):
        until = "the work is captured" if file.name == freeze_record.BY_CAPTURE else "`nblauncher thaw`"
        where = "" if file.parent == own.parent else f" in course {file.parent.name}"
        found |= {held.username: f"frozen until {until}{where}" for held in freeze_record.load(file).values()}
    return found


def told(words: str | None, report: ServerReport | None) -> str | None:
    """The words about a student, who is frozen if there are any, as the cluster has it: of a job only it can say."""
    if report is None or report.job is None or report.state is ServerState.UNKNOWN:
        return words
    if report.is_suspended:
        return words or "the cluster has suspended the job; an administrator can resume it"
    return None


def shown(state: ServerState, is_frozen: bool) -> ServerState:
    """The state to report: a frozen server does not answer."""
    return ServerState.FROZEN if is_frozen and state in (ServerState.READY, ServerState.STARTING) else state


def shown_of(report: ServerReport | None, words: str | None) -> ServerState:
    state = ServerState.STOPPED if report is None else report.state
    return shown(state, told(words, report) is not None)


def groups_of(host: Host) -> Groups:
    """The control groups of the class; a supervisor that was refused a scope has none."""
    from nblauncher.supervisor import client

    chosen = cgroups.choose(host.settings.course)
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return chosen
    with supervisor:
        return chosen if supervisor.hello().groups == chosen.kind.value else Groups(Kind.NONE)


def students(host: Host, groups: Groups, accounts: Sequence[Account]) -> list[Student]:
    """The accounts with the pids that the supervisor knows. HostError when it uses another control group."""
    from nblauncher.supervisor import client

    supervisor = client.connect(host.paths)
    if supervisor is None:
        return [Student(account.username, account.uid) for account in accounts]
    with supervisor:
        root = supervisor.hello().pid
        servers = {server.uid: server.handle.pid for server in supervisor.servers() if server.handle is not None}
    return [Student(account.username, account.uid, servers.get(account.uid, 0), root) for account in accounts]


def keep_watch(host: Host) -> None:
    """Leave a process behind that freezes new sign-ins and jobs as long as a student is frozen, and thaws jobs that a
    capture could not; unless one runs already.
    """
    if not remembered(host) and not jobs_by_capture(host).recorded():
        return
    freezer = Freezer(groups_of(host), on_demand(host))
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        if os.fork() == 0:
            interruption.forget()
            os.setsid()
            os.chdir("/")
            logging.disable()  # the log's descriptor is closed, and its number may be given to another file
            workers.close_descriptors(())
            for _ in range(3):
                os.open(os.devnull, os.O_RDWR)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            _keep_watch(host, freezer)
    finally:
        os._exit(0)


def _keep_watch(host: Host, freezer: Freezer) -> None:
    """Until no student is frozen. An account that was recreated meanwhile is thawed."""
    lock = freezer.record.with_name("frozen.watch")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    looked = 0.0
    while remembered(host) or jobs_by_capture(host).recorded():
        held = freeze_record.load(freezer.record)
        with contextlib.suppress(HostError, OSError):  # the next look tries again
            freezer.thaw([uid for uid, one in held.items() if not _is_same_account(one.username, uid)])
            freezer.look_again()
        if time.monotonic() > looked + _LOOK_AT_JOBS:
            _look_at_jobs(host)
            looked = time.monotonic()
        time.sleep(_LOOK)


def _look_at_jobs(host: Host) -> None:
    """Freeze jobs that frozen students have had since, and thaw those of students who are not frozen any more."""
    with contextlib.suppress(HostError):
        jobs_by_command(host).freeze_new(lambda: _named_in(on_demand(host)))
    _thaw_jobs_left(host)
    if names := jobs_by_capture(host).recorded():
        with contextlib.suppress(BusyError), locked(captures_lock(host), "the captures", patience=0.0):
            jobs_by_capture(host).thaw(names)


def _thaw_jobs_left(host: Host) -> None:
    """By a `thaw` that Slurm did not answer, or by a reboot of this host, which ends a freeze."""
    jobs = jobs_by_command(host)
    if left := jobs.recorded().keys() - _named_in(on_demand(host)):
        jobs.thaw(left)


def _named_in(record: Path) -> set[str]:
    return {held.username for held in freeze_record.load(record).values()}


def _is_same_account(username: str, uid: int) -> bool:
    try:
        return pwd.getpwnam(username).pw_uid == uid
    except KeyError:
        return False


def thaw_left_behind(host: Host) -> tuple[str, ...]:
    """Thaw the students left frozen by a capture that was killed together with its watcher; their names.

    Students frozen by `freeze` stay frozen. Does nothing while a capture is under way.
    """
    if not host.paths.state.is_dir():
        return ()
    _thaw_jobs_left(host)
    jobs = jobs_by_capture(host)
    if not Freezer(cgroups.choose(host.settings.course), by_capture(host)).left() and not jobs.recorded():
        return ()
    freezer = Freezer(groups_of(host), by_capture(host))
    try:
        with locked(captures_lock(host), "the captures", patience=0.0):
            found = freezer.left()
            freezer.thaw(list(found))
            suspended = set(jobs.recorded())
            suspended -= jobs.thaw(suspended).keys()
    except BusyError:
        return ()
    for uid, name in found.items():
        log.warning("%s was left frozen by a killed capture, and was thawed", name or f"uid {uid}")
    return tuple(sorted({*suspended, *(name or f"uid {uid}" for uid, name in found.items())}))
