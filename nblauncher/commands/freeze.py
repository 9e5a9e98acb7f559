"""freeze and thaw: every process of some students stands still until the teacher says otherwise.

Somebody has to look for who signs in meanwhile: a small process stays behind until nobody is frozen any more. And what
a killed capture left frozen goes on with the next command, whatever that is.
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

from nblauncher import cgroups, freezing, ice, interruption, survey, workers
from nblauncher.cgroups import Groups, Kind
from nblauncher.commands.retrieve import notes
from nblauncher.errors import BusyError, HostError
from nblauncher.freezing import Freezer
from nblauncher.host import Host, captures_lock
from nblauncher.ledger import locked
from nblauncher.model import Account, ServerState
from nblauncher.plan import Details, Phase, Plan
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

_LOOK = 0.25
"""Seconds between two looks for who signed in: so long somebody may write."""


def plan_freeze(host: Host, usernames: Sequence[str]) -> Plan:
    """Everybody who is not frozen yet."""
    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name not in frozen]
    phases = (Phase("freeze", tuple(Freeze(name) for name in wanted)), Phase("watch", (Watch(),)))
    return Plan(phases if wanted else (), notes(usernames, facts))


def plan_thaw(host: Host, usernames: Sequence[str]) -> Plan:
    """Everybody whom `freeze` stopped."""
    facts = survey.survey(host, usernames)
    frozen = remembered(host)
    wanted = [name for name in usernames if name in facts.members and name in frozen]
    return Plan((Phase("thaw", tuple(Thaw(name) for name in wanted)),), notes(usernames, facts))


@dataclass(frozen=True)
class Freeze:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

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
            raise HostError(f"stands still, but {complaints[self.username]}", "Run `nblauncher launch` again.")
        return {self.username: {}}


@dataclass(frozen=True)
class Watch:
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "watch for who signs in"

    def apply(self, host: Host) -> None:
        keep_watch(host)


@dataclass(frozen=True)
class Thaw:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"thaw {self.username}"

    def apply(self, host: Host) -> None:
        uids = [uid for uid, held in ice.load(on_demand(host)).items() if held.username == self.username]
        Freezer(groups_of(host), on_demand(host)).thaw(uids)


def on_demand(host: Host) -> Path:
    """Who stands still by `freeze`. Gone after a reboot, as they are."""
    return host.paths.run / ice.BY_COMMAND


def by_capture(host: Host) -> Path:
    return host.paths.run / ice.BY_CAPTURE


def remembered(host: Host) -> dict[str, int]:
    """Who stands still by `freeze`: uids by name."""
    return {held.username: uid for uid, held in ice.load(on_demand(host)).items()}


def words(host: Host) -> dict[str, str]:
    """Who is frozen, by any command, and until when: `frozen until ...` by username."""
    own = on_demand(host)
    found: dict[str, str] = {}
    for file in (*ice.others(own), own):
        until = "the work is captured" if file.name == ice.BY_CAPTURE else "`nblauncher thaw`"
        where = "" if file.parent == own.parent else f" in course {file.parent.name}"
        found |= {held.username: f"frozen until {until}{where}" for held in ice.load(file).values()}
    return found


def shown(state: ServerState, is_frozen: bool) -> ServerState:
    """What is said of a server: one whose processes are frozen answers nobody."""
    return ServerState.FROZEN if is_frozen and state in (ServerState.READY, ServerState.STARTING) else state


def groups_of(host: Host) -> Groups:
    """Those that the class is in; a supervisor that was refused a scope has none."""
    chosen = cgroups.choose(host.settings.course)
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return chosen
    with supervisor:
        return chosen if supervisor.hello().groups == chosen.kind.value else Groups(Kind.NONE)


def students(host: Host, groups: Groups, accounts: Sequence[Account]) -> list[freezing.Student]:
    """With what the supervisor knows of them. HostError where it knows another control group than we do."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return [freezing.Student(one.username, one.uid) for one in accounts]
    with supervisor:
        root = supervisor.hello().pid
        servers = {one.uid: one.handle.pid for one in supervisor.servers() if one.handle is not None}
    return [freezing.Student(one.username, one.uid, servers.get(one.uid, 0), root) for one in accounts]


def keep_watch(host: Host) -> None:
    """Leave a process behind that freezes who signs in, as long as somebody is frozen; nothing where there is one."""
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
    """Until nobody is frozen any more. Whose account is another one by now is let go."""
    lock = freezer.record.with_name("frozen.watch")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    while held := ice.load(freezer.record):
        freezer.thaw([uid for uid, one in held.items() if not _is_still(one.username, uid)])
        with contextlib.suppress(HostError):  # the next look tries again
            freezer.look_again()
        time.sleep(_LOOK)


def _is_still(username: str, uid: int) -> bool:
    try:
        return pwd.getpwnam(username).pw_uid == uid
    except KeyError:
        return False


def let_go_forgotten(host: Host) -> tuple[str, ...]:
    """Thaw those whom a capture froze that was killed together with its watcher; their names.

    Who stands still by `freeze` stays so. Nothing happens while a capture is under way.
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
        log.warning("%s was frozen by a capture that was killed, and goes on now", name or f"uid {uid}")
    return tuple(sorted(name or f"uid {uid}" for uid, name in found.items()))
