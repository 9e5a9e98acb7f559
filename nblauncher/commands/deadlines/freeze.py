"""freeze and thaw: all processes of the given students are frozen until the teacher thaws them.

A small process stays behind and freezes new sign-ins until no student is frozen. Students left frozen
by a killed capture are thawed by the next command, whichever it is.
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

from nblauncher.errors import BusyError, HostError, RefusedError
from nblauncher.isolation import cgroups, freeze_record
from nblauncher.isolation.cgroups import Groups, Kind
from nblauncher.isolation.freezer import Freezer, Student
from nblauncher.ledger import locked
from nblauncher.model import Account, ServerState
from nblauncher.planning import survey
from nblauncher.planning.host import Host, captures_lock
from nblauncher.planning.plan import Details, ForOne, Phase, Plan
from nblauncher.system import interruption, workers

log = logging.getLogger(__name__)

ON_A_CLUSTER = "the servers are jobs of a cluster, whose processes this host cannot freeze"

_LOOK = 0.25
"""Seconds between two looks for new sign-ins; for that long a new session can write."""


def plan_freeze(host: Host, usernames: Sequence[str]) -> Plan:
    """Freeze these students, unless they are frozen already."""
    from nblauncher.commands.retrieve import notes

    if on_a_cluster(host):
        raise RefusedError(f"nothing was frozen: {ON_A_CLUSTER}", "Stop the servers with `nblauncher shutdown --only`.")
    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name not in frozen]
    phases = (Phase("freeze", tuple(Freeze(name) for name in wanted)), Phase("watch", (Watch(),)))
    return Plan(phases if wanted else (), notes(usernames, facts))


def plan_thaw(host: Host, usernames: Sequence[str]) -> Plan:
    """Thaw the students frozen by `freeze`."""
    from nblauncher.commands.retrieve import notes

    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name in frozen]
    return Plan((Phase("thaw", tuple(Thaw(name) for name in wanted)),), notes(usernames, facts))


def on_a_cluster(host: Host) -> bool:
    """Whether students' processes run where this host cannot freeze them."""
    return host.settings.notebook.spawner == "slurm"


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


def on_demand(host: Host) -> Path:
    """The record of the students frozen by `freeze`. A reboot ends both."""
    return host.paths.run / freeze_record.BY_COMMAND


def by_capture(host: Host) -> Path:
    return host.paths.run / freeze_record.BY_CAPTURE


def remembered(host: Host) -> dict[str, int]:
    """Students frozen by `freeze`: username → uid."""
    return {held.username: uid for uid, held in freeze_record.load(on_demand(host)).items()}


def words(host: Host) -> dict[str, str]:
    """Students frozen by any command: username → `frozen until ...`."""
    own = on_demand(host)
    found: dict[str, str] = {}
    for file in (*freeze_record.others(own), own):
        until = "the work is captured" if file.name == freeze_record.BY_CAPTURE else "`nblauncher thaw`"
        where = "" if file.parent == own.parent else f" in course {file.parent.name}"
        found |= {held.username: f"frozen until {until}{where}" for held in freeze_record.load(file).values()}
    return found


def shown(state: ServerState, is_frozen: bool) -> ServerState:
    """The state to report: a frozen server does not answer."""
    return ServerState.FROZEN if is_frozen and state in (ServerState.READY, ServerState.STARTING) else state


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
    """Leave a process behind that freezes new sign-ins as long as a student is frozen, unless one runs already."""
    if not remembered(host):
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
            _keep_watch(freezer)
    finally:
        os._exit(0)


def _keep_watch(freezer: Freezer) -> None:
    """Until no student is frozen. An account that was recreated meanwhile is thawed."""
    lock = freezer.record.with_name("frozen.watch")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    while held := freeze_record.load(freezer.record):
        freezer.thaw([uid for uid, one in held.items() if not _is_same_account(one.username, uid)])
        with contextlib.suppress(HostError):  # the next look tries again
            freezer.look_again()
        time.sleep(_LOOK)


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
    if not Freezer(cgroups.choose(host.settings.course), by_capture(host)).left():
        return ()
    freezer = Freezer(groups_of(host), by_capture(host))
    try:
        with locked(captures_lock(host), "the captures", patience=0.0):
            found = freezer.left()
            freezer.thaw(list(found))
    except BusyError:
        return ()
    for uid, name in found.items():
        log.warning("%s was left frozen by a killed capture, and was thawed", name or f"uid {uid}")
    return tuple(sorted(name or f"uid {uid}" for uid, name in found.items()))
