"""Every process of some students stands still for a moment, and goes on whatever becomes of us.

What runs in a student's control group, and with systemd everything in the student's own slice (logins, user services),
is frozen by the kernel's freezer: a process is never stopped in the middle of a write(2). What is elsewhere (a job of
cron, a login on a host without systemd) is stopped by SIGSTOP, one process after the other; who forks faster than we
look may escape that, and shows only in files that change. A process of its own watches: when whoever froze them dies,
or takes too long, it thaws them.
Sources: Documentation/admin-guide/cgroup-v2.rst "cgroup.freeze", cgroup-v1/freezer-subsystem.rst, signal(7).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nblauncher import workers
from nblauncher.cgroups import Groups, Kind, members
from nblauncher.errors import HostError
from nblauncher.owners import of_users, uids_in

LONGEST = 30.0
"""Seconds after which everybody is thawed in any case."""

_SLICES = Path("/sys/fs/cgroup/user.slice")
_PATIENCE = 2.0
_PAUSE = 0.002
_ROUNDS = 50
_STOPPED = "Tt"
_STILL = "TtZX"


@dataclass(frozen=True, slots=True)
class Student:
    """Whom to freeze: the uid, and the name of the control group."""

    username: str
    uid: int


def can_freeze_groups(groups: Groups) -> bool:
    """Whether the kernel can freeze a whole class at once; otherwise each process is stopped one by one."""
    return groups.kind in (Kind.SCOPE, Kind.V2) or (groups.kind is Kind.V1 and "freezer" in groups.root.parts)


@contextlib.contextmanager
def frozen(groups: Groups, students: Sequence[Student], *, longest: float = LONGEST) -> Iterator[Ice]:
    """No process of these students runs inside the block. As root, from a process with one thread.

    HostError when somebody could not be frozen in time; everybody is thawed then. After `longest` seconds they run
    again also when the block is not left; `Ice.held` tells.
    """
    resting = stopped(students)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    watcher = _watch(groups, students, resting, reader, writer, longest)
    os.close(reader)
    try:
        freeze(groups, students)
        yield Ice(time.monotonic() + longest)
    finally:
        thaw(groups, students, resting)
        os.close(writer)
        os.waitpid(watcher, 0)


@dataclass(frozen=True, slots=True)
class Ice:
    """How long it certainly holds, on the monotonic clock."""

    until: float

    @property
    def held(self) -> bool:
        """Whether nobody was thawed so far but by us."""
        return time.monotonic() < self.until


def stopped(students: Sequence[Student]) -> frozenset[int]:
    """Processes that stand still by themselves, such as jobs that their student put to sleep with Ctrl-Z."""
    found = of_users({student.uid for student in students})
    return frozenset(pid for pid, (_uid, state) in found.items() if state in _STOPPED)


def freeze(groups: Groups, students: Sequence[Student]) -> None:
    """Until `thaw`. HostError when somebody could not be frozen; call `thaw` then."""
    folders = _folders(groups, students)
    for folder in folders:
        _write(folder, is_frozen=True)
    for folder in folders:
        _wait(folder)
    _stop_the_rest(students, folders)


def thaw(groups: Groups, students: Sequence[Student], resting: Collection[int] = ()) -> None:
    """Let everybody go on whom `freeze` may have stopped, but for who was `resting` before. Twice does no harm."""
    folders = _folders(groups, students)
    inside = {pid for folder in folders for pid in members(folder)}
    found = of_users({student.uid for student in students})
    for pid in sorted(found, reverse=True):  # children first: a shell that wakes must not see one stopped
        uid, state = found[pid]
        if pid not in inside and pid not in resting and state in _STOPPED:
            _signal(pid, uid, signal.SIGCONT)
    for folder in folders:
        _write(folder, is_frozen=False)


def _watch(
    groups: Groups, students: Sequence[Student], resting: Collection[int], reader: int, writer: int, longest: float
) -> int:
    """A process that thaws everybody when the writer's end is closed by our death, or after `longest` seconds."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        workers.close_descriptors({reader})
        select.select([reader], [], [], longest)
        thaw(groups, students, resting)
    finally:
        os._exit(0)


def _folders(groups: Groups, students: Sequence[Student]) -> list[Path]:
    """The control groups that hold nobody but one of these students."""
    found = []
    if can_freeze_groups(groups):
        found += [groups.group(student.username).path for student in students]
    if groups.kind is Kind.SCOPE:
        found += [_SLICES / f"user-{student.uid}.slice" for student in students]
    return [folder for folder in found if folder.is_dir()]


def _write(folder: Path, *, is_frozen: bool) -> None:
    with contextlib.suppress(FileNotFoundError):  # the group went meanwhile, and with it everybody in it
        if (folder / "freezer.state").exists():
            (folder / "freezer.state").write_text("FROZEN" if is_frozen else "THAWED")
        else:
            (folder / "cgroup.freeze").write_text("1" if is_frozen else "0")


def _wait(folder: Path) -> None:
    """A task that is in the kernel (a write(2), say) is frozen when it comes out of it."""
    deadline = time.monotonic() + _PATIENCE
    while not _is_frozen(folder):
        if time.monotonic() > deadline:
            raise HostError(f"{folder.name} could not be frozen in {_PATIENCE:.0f} s")
        time.sleep(_PAUSE)


def _is_frozen(folder: Path) -> bool:
    try:
        if (folder / "freezer.state").exists():
            return (folder / "freezer.state").read_text().strip() == "FROZEN"
        events = (folder / "cgroup.events").read_text().split()
    except OSError:
        return True
    return dict(zip(events[::2], events[1::2], strict=True)).get("frozen") == "1" or not members(folder)


def _stop_the_rest(students: Sequence[Student], folders: Sequence[Path]) -> None:
    """Round after round, until every process of these uids that is in no frozen group stands still."""
    for _ in range(_ROUNDS):
        inside = {pid for folder in folders for pid in members(folder)}
        found = of_users({student.uid for student in students})
        running = {pid: uid for pid, (uid, state) in found.items() if pid not in inside and state not in _STILL}
        if not running:
            return
        for pid, uid in running.items():
            _signal(pid, uid, signal.SIGSTOP)
        time.sleep(_PAUSE)
    names = {student.username for student in students if student.uid in running.values()}
    raise HostError(f"processes of {', '.join(sorted(names))} could not all be stopped")


def _signal(pid: int, uid: int, number: signal.Signals) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if uid in uids_in(Path("/proc", str(pid), "status").read_bytes()):  # once more now that the pid is held
            signal.pidfd_send_signal(pidfd, number)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(pidfd)
