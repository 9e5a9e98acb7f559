"""Every process of some students stands still for a moment, and goes on whatever becomes of us.

What comes from a student's server is in the student's control group, and with systemd logins are in the student's own
slice: both are frozen by the kernel's freezer, and a process is never stopped in the middle of a write(2). What is
elsewhere (a job of cron, a login on a host without systemd) is moved into a frozen group of ours and put back
afterwards: SIGCONT wakes nobody there. Only where the kernel has no freezer it is SIGSTOP, one process after the other.
Somebody keeps looking for processes that come later. What is done is written down before (ice), and a process of its
own watches: when whoever froze them dies, or takes too long, it lets them go.
Sources: Documentation/admin-guide/cgroup-v2.rst "cgroup.freeze", cgroup-v1/freezer-subsystem.rst, signal(7).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher import ice, interruption, owners, processes, workers
from nblauncher.cgroups import Groups, Kind, enter_path, is_held, members, own_path
from nblauncher.errors import HostError
from nblauncher.ice import Held
from nblauncher.model import Handle

LONGEST = 30.0
"""Seconds after which everybody is thawed in any case."""

LOOK = 0.1
"""Seconds between two looks for processes that came after the freezing."""

_SLICES = Path("/sys/fs/cgroup/user.slice")
_PATIENCE = 2.0
_PAUSE = 0.002
_ROUNDS = 50
_STOPPED = "Tt"


@dataclass(frozen=True, slots=True)
class Student:
    """Whom to freeze. `server` and `supervisor` are pids, where the class runs: what descends from them is the class's
    and must be in the student's control group.
    """

    username: str
    uid: int
    server: int = 0
    supervisor: int = 0


@dataclass(frozen=True)
class Ice:
    """How long it certainly holds, on the monotonic clock, and of whom there is something to complain of."""

    until: float
    complaints: Mapping[str, str] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether nobody was thawed so far but by us."""
        return time.monotonic() < self.until


def can_freeze_groups(groups: Groups) -> bool:
    """Whether the kernel can freeze a whole class at once; otherwise each process is stopped one by one."""
    return groups.kind in (Kind.SCOPE, Kind.V2) or (groups.kind is Kind.V1 and "freezer" in groups.root.parts)


@dataclass(frozen=True)
class Freezer:
    """For one course and one reason. `record` is the file that says what must be undone (ice)."""

    groups: Groups
    record: Path

    @contextlib.contextmanager
    def frozen(
        self, students: Sequence[Student], *, longest: float = LONGEST, ready: Callable[[], None] = lambda: None
    ) -> Iterator[Ice]:
        """No process of these students runs inside the block. As root, from a process with one thread.

        `ready` is called when everything is prepared, and may wait for the moment.
        HostError when somebody could not be frozen in time; everybody is thawed then. After `longest` seconds they run
        again also when the block is not left; `Ice.held` tells.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        watcher = self._watch(students, reader, longest)
        os.close(reader)
        try:
            self._remember({student.uid: Held(student.username) for student in students})
            ready()
            os.write(writer, b"f")  # from now on it counts
            complaints = self.freeze(students)
            yield Ice(time.monotonic() + longest, complaints)
        finally:
            os.kill(watcher, signal.SIGKILL)  # it must not take in anybody whom we have just let go
            os.waitpid(watcher, 0)
            os.close(writer)
            self.thaw([student.uid for student in students])

    def freeze(self, students: Sequence[Student]) -> dict[str, str]:
        """Until `thaw`; who is frozen already stays so, and what came meanwhile is taken in. By username what is wrong
        with one who stands still all the same. HostError when somebody could not be frozen; call `thaw` then.
        """
        self._remember({student.uid: Held(student.username) for student in students})
        folders = self._folders([student.uid for student in students])
        for folder in folders:
            _write(folder, is_frozen=True)
        for folder in folders:
            _wait(folder)
        complaints = self._complaints(students)
        self._hold_the_rest(students)
        return complaints

    def look_again(self) -> None:
        """Take in what came meanwhile of everybody who is on the record. HostError as `freeze`."""
        with ice.alone(self._turn):  # whoever is thawed right now must not be frozen again by us
            self.freeze([Student(held.username, uid) for uid, held in ice.load(self.record).items()])

    def thaw(self, uids: Sequence[int]) -> None:
        """Let everybody go on whom `freeze` may have stopped, unless somebody else froze them as well. Twice does no
        harm.
        """
        with ice.alone(self._turn), ice.changed(self.record) as recorded:
            for uid in uids:
                held = recorded.get(uid, Held(""))
                if not ice.hand_over(uid, held, self.record):
                    self._let_go(uid, held)
                recorded.pop(uid, None)

    def left(self) -> dict[int, str]:
        """Who is frozen although nobody says so any more, or is on the record; usernames by uid, '' where unknown."""
        recorded = {uid: one.username for uid, one in ice.load(self.record).items()}
        wanted = {uid for other in ice.others(self.record) for uid in ice.load(other)}
        found = {uid for uid in self.groups.uids() if any(map(_is_told_to, self.groups.everywhere(uid)))}
        return {**dict.fromkeys(found - wanted, ""), **recorded}

    @property
    def _turn(self) -> Path:
        return self.record.with_suffix(".turn")

    def _watch(self, students: Sequence[Student], reader: int, longest: float) -> int:
        """A process that lets everybody go when the writer's end is closed by our death, or after `longest` seconds."""
        pid = os.fork()
        if pid:
            return pid
        try:
            interruption.forget()
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            logging.disable()  # the log's descriptor is closed, and its number may be given to another file
            workers.close_descriptors({reader})
            is_begun = os.read(reader, 1)
            until = time.monotonic() + longest
            while is_begun and (left := until - time.monotonic()) > 0:
                if select.select([reader], [], [], min(left, LOOK))[0]:
                    break
                with contextlib.suppress(HostError):  # the next look tries again
                    self.look_again()
        finally:
            self.thaw([student.uid for student in students])
            os._exit(0)

    def _folders(self, uids: Sequence[int]) -> list[Path]:
        """The control groups that hold nobody but one of these students."""
        if not can_freeze_groups(self.groups):
            return []
        found = [path for uid in uids for path in self.groups.everywhere(uid)]
        if self.groups.kind is Kind.SCOPE:
            found += [folder for uid in uids if (folder := _SLICES / f"user-{uid}.slice").is_dir()]
        return found

    def _complaints(self, students: Sequence[Student]) -> dict[str, str]:
        """Where a process of the class is in another place than all of its processes should be."""
        if not can_freeze_groups(self.groups):
            return {}
        running = [one for one in students if one.server]
        inside = {pid for one in running for path in self.groups.everywhere(one.uid) for pid in members(path)}
        lost = owners.outside({one.uid for one in running}, inside)
        found = {}
        for one in running:
            proven = owners.provable(one.uid, one.server, one.supervisor) if lost else ()
            pids = sorted({pid for pid in proven if pid in lost})
            if pids:
                name = self.groups.of_student(one.uid).path
                found[one.username] = f"processes of the class are not in {name}: {', '.join(map(str, pids[:5]))}"
        return found

    def _hold_the_rest(self, students: Sequence[Student]) -> None:
        """Round after round, until every process of these uids stands still."""
        names = {student.uid: student.username for student in students}
        for _ in range(_ROUNDS):
            inside = {pid for folder in self._folders(list(names)) for pid in members(folder)}
            running = owners.outside(names, inside)
            if not (can_hold := self._can_hold):
                running = {pid: about for pid, about in running.items() if about[1] not in _STOPPED}
            if not running:
                return
            found = {pid: (uid, handle) for pid, (uid, _) in running.items() if (handle := processes.identify(pid))}
            if can_hold:
                self._move(found, names)
            else:
                self._stop(found, names)
            time.sleep(_PAUSE)
        late = {names[uid] for uid, _state in running.values()}
        raise HostError(f"processes of {', '.join(sorted(late))} could not all be stopped")

    @property
    def _can_hold(self) -> bool:
        """Not where there is no freezer, nor below a scope that systemd has not made."""
        return can_freeze_groups(self.groups) and (self.groups.kind is not Kind.SCOPE or self.groups.root.is_dir())

    def _move(self, found: Mapping[int, tuple[int, Handle]], names: Mapping[int, str]) -> None:
        wanted: dict[int, Held] = {}
        for uid, handle in found.values():
            where = own_path(self.groups, handle.pid)
            if where is not None:
                wanted.setdefault(uid, Held(names[uid])).moved[handle] = where
        self._remember(wanted)
        for uid, held in wanted.items():
            group = self.groups.held(uid)
            group.create()
            _write(group.path, is_frozen=True)
            for handle in held.moved:
                _enter(group.path, handle, uid)
            _wait(group.path)

    def _stop(self, found: Mapping[int, tuple[int, Handle]], names: Mapping[int, str]) -> None:
        wanted: dict[int, Held] = {}
        for uid, handle in found.values():
            wanted.setdefault(uid, Held(names[uid])).stopped.add(handle)
        self._remember(wanted)
        for uid, handle in found.values():
            _signal(handle, uid, signal.SIGSTOP)

    def _remember(self, wanted: Mapping[int, Held]) -> None:
        with ice.changed(self.record) as recorded:
            for uid, held in wanted.items():
                recorded.setdefault(uid, Held(held.username)).take_over(held)

    def _let_go(self, uid: int, held: Held) -> None:
        folders = self._folders([uid])
        for folder in (one for one in folders if is_held(one.name)):
            for pid in members(folder):
                if (handle := processes.identify(pid)) is not None:
                    enter_path(self.groups, held.moved.get(handle, "/"), pid)
            self.groups.remove_folder(folder)
        for folder in folders:
            _write(folder, is_frozen=False)
        for handle in sorted(held.stopped, key=lambda one: one.pid, reverse=True):  # children first, a shell last
            _signal(handle, uid, signal.SIGCONT)


def _write(folder: Path, *, is_frozen: bool) -> None:
    try:
        if (folder / "freezer.state").exists():
            (folder / "freezer.state").write_text("FROZEN" if is_frozen else "THAWED")
        else:
            (folder / "cgroup.freeze").write_text("1" if is_frozen else "0")
    except OSError as error:
        if folder.is_dir():  # else the group went meanwhile, and with it everybody in it
            raise HostError(f"{folder} cannot be frozen: {error.strerror}") from error


def _is_told_to(folder: Path) -> bool:
    """Whether somebody wants it frozen, also while a process in it still runs."""
    try:
        if (folder / "freezer.state").exists():
            return (folder / "freezer.self_freezing").read_text().strip() == "1"
        return (folder / "cgroup.freeze").read_text().strip() == "1"
    except OSError:
        return False


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


def _enter(folder: Path, handle: Handle, uid: int) -> None:
    """Unless it has ended, or is somebody else's by now."""
    pidfd = processes.open_handle(handle)
    if pidfd is None:
        return
    try:
        if uid in owners.uids_in(Path("/proc", str(handle.pid), "status").read_bytes()):
            (folder / "cgroup.procs").write_text(str(handle.pid))
    except (FileNotFoundError, ProcessLookupError):
        return
    except OSError as error:
        raise HostError(f"process {handle.pid} cannot be moved into {folder}: {error.strerror}") from error
    finally:
        os.close(pidfd)


def _signal(handle: Handle, uid: int, number: signal.Signals) -> None:
    pidfd = processes.open_handle(handle)
    if pidfd is None:
        return
    try:
        if uid in owners.uids_in(Path("/proc", str(handle.pid), "status").read_bytes()):
            signal.pidfd_send_signal(pidfd, number)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(pidfd)
