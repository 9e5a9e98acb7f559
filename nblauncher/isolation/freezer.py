"""Freeze every process of some students for a moment; they are thawed even if we are killed.

The processes of a student's server are in the student's control group, and with systemd the student's logins are in a
slice: the kernel's freezer freezes both, and never in the middle of a write(2). Other processes (a cron job, a login on
a host without systemd) are moved into a frozen group of ours and moved back afterwards: SIGCONT wakes nothing there.
Only where the kernel has no freezer are processes stopped one by one with SIGSTOP. We keep looking for processes that
start later. Each change is recorded before it is made (`freeze_record`), and a separate process watches: if the process
that froze the students dies, or takes too long, it thaws them.
Sources: Documentation/admin-guide/cgroup-v2.rst "cgroup.freeze", cgroup-v1/freezer-subsystem.rst, signal(7).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nblauncher.errors import HostError
from nblauncher.isolation import freeze_record, owners
from nblauncher.isolation.cgroups import Groups, Kind, enter_path, is_held, members, own_path
from nblauncher.isolation.freeze_record import Held
from nblauncher.model import Handle
from nblauncher.system import interruption, processes, workers

LONGEST = 30.0
"""Seconds after which all students are thawed in any case."""

LOOK = 0.1
"""Seconds between two searches for processes that started after the freeze."""

_SLICES = Path("/sys/fs/cgroup/user.slice")
_PATIENCE = 2.0
_PAUSE = 0.002
_ROUNDS = 50
_STOPPED = "Tt"


@dataclass(frozen=True, slots=True)
class Student:
    """A student to freeze. `server` and `supervisor` are pids, 0 where no class runs: their descendants belong to the
    class and must be in the student's control group.
    """

    username: str
    uid: int
    server: int = 0
    supervisor: int = 0


@dataclass(frozen=True)
class Freeze:
    """Until when it certainly lasts, on the monotonic clock, and the complaints about students, by username. `running`
    says why a student's processes on other hosts are not frozen.
    """

    until: float
    complaints: Mapping[str, str] = field(default_factory=dict)
    running: Mapping[str, str] = field(default_factory=dict)

    @property
    def expired(self) -> bool:
        """Whether the watcher may have thawed students by now."""
        return time.monotonic() >= self.until


class Elsewhere(Protocol):
    """The students' processes on other hosts. Neither method raises."""

    def freeze(self, usernames: Collection[str]) -> dict[str, str]:
        """Until `thaw`. Returns by username why processes of a student's still run."""
        ...

    def thaw(self, usernames: Collection[str]) -> object:
        """Those that `freeze` may have frozen. What cannot be thawed stays recorded. May be called twice."""
        ...


def can_freeze_groups(groups: Groups) -> bool:
    """Whether the kernel can freeze a whole class at once; otherwise processes are stopped one by one."""
    return groups.kind in (Kind.SCOPE, Kind.V2) or (groups.kind is Kind.V1 and "freezer" in groups.root.parts)


@dataclass(frozen=True)
class Freezer:
    """For one course and one reason. `record` is the file that says what must be undone (freeze_record). `frozen` also
    freezes what the students run `elsewhere`.
    """

    groups: Groups
    record: Path
    elsewhere: Elsewhere | None = None

    @contextlib.contextmanager
    def frozen(
        self, students: Sequence[Student], *, longest: float = LONGEST, ready: Callable[[], None] = lambda: None
    ) -> Iterator[Freeze]:
        """No process of these students runs inside the block. As root, from a process with one thread.

        `ready` is called when everything is prepared, and may wait for the right moment.
        HostError when a student could not be frozen in time; all are thawed then. After `longest` seconds they are
        thawed even inside the block; see `Freeze.expired`.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        watcher = self._watch(students, reader, longest)
        os.close(reader)
        try:
            self._remember({student.uid: Held(student.username) for student in students})
            ready()
            until = time.monotonic() + longest
            os.write(writer, b"f")  # starts the watcher's clock
            complaints = self.freeze(students)
            names = [student.username for student in students]
            yield Freeze(until, complaints, self.elsewhere.freeze(names) if self.elsewhere else {})
        finally:
            os.kill(watcher, signal.SIGKILL)  # it must not freeze again what we are about to thaw
            os.waitpid(watcher, 0)
            os.close(writer)
            self._thaw_everywhere(students)

    def freeze(self, students: Sequence[Student]) -> dict[str, str]:
        """Freeze until `thaw`. Frozen students stay frozen, and their new processes are frozen too. Returns complaints
        by username about students that are frozen all the same. HostError if one could not be frozen; call `thaw` then.
        """
        self._remember({student.uid: Held(student.username) for student in students})
        folders = self._folders([student.uid for student in students])
        for folder in folders:
            _write(folder, is_frozen=True)
        for folder in folders:
            _wait(folder)
        complaints = self._complaints(students)
        self._freeze_the_rest(students)
        return complaints

    def look_again(self) -> None:
        """Freeze new processes of all recorded students. HostError as `freeze`."""
        with freeze_record.alone(self._turn):  # a student that is being thawed must not be frozen again
            self.freeze([Student(held.username, uid) for uid, held in freeze_record.load(self.record).items()])

    def thaw(self, uids: Sequence[int]) -> None:
        """Thaw all students that `freeze` may have frozen, unless they are frozen for another reason too. May be called
        twice.
        """
        with freeze_record.alone(self._turn), freeze_record.changed(self.record) as recorded:
            for uid in uids:
                held = recorded.get(uid, Held(""))
                if not freeze_record.hand_over(uid, held, self.record):
                    self._release(uid, held)
                recorded.pop(uid, None)

    def left(self) -> dict[int, str]:
        """The recorded students, and those frozen without any record; usernames by uid, '' where unknown."""
        recorded = {uid: held.username for uid, held in freeze_record.load(self.record).items()}
        wanted = {uid for other in freeze_record.others(self.record) for uid in freeze_record.load(other)}
        found = {uid for uid, folders in self.groups.by_uid().items() if any(map(_is_set_to_freeze, folders))}
        return {**dict.fromkeys(found - wanted, ""), **recorded}

    @property
    def _turn(self) -> Path:
        return self.record.with_suffix(".turn")

    def _watch(self, students: Sequence[Student], reader: int, longest: float) -> int:
        """Fork a process that thaws all students when our death closes the write end, or after `longest` seconds."""
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
                with contextlib.suppress(HostError):  # the next round tries again
                    self.look_again()
        finally:
            try:
                self._thaw_everywhere(students)
            finally:
                os._exit(0)  # whatever happens: the caller's code above belongs to the parent

    def _thaw_everywhere(self, students: Sequence[Student]) -> None:
        try:
            self.thaw([student.uid for student in students])
        finally:
            if self.elsewhere is not None:
                self.elsewhere.thaw([student.username for student in students])

    def _folders(self, uids: Sequence[int]) -> list[Path]:
        """The control groups that hold only processes of these students."""
        if not can_freeze_groups(self.groups):
            return []
        found = [path for uid in uids for path in self.groups.everywhere(uid)]
        if self.groups.kind is Kind.SCOPE:
            found += [folder for uid in uids if (folder := _SLICES / f"user-{uid}.slice").is_dir()]
        return found

    def _complaints(self, students: Sequence[Student]) -> dict[str, str]:
        """By username: processes of the class that are outside of the student's control group."""
        if not can_freeze_groups(self.groups):
            return {}
        running = [student for student in students if student.server]
        inside = {pid for student in running for path in self.groups.everywhere(student.uid) for pid in members(path)}
        outside = owners.outside({student.uid for student in running}, inside)
        found = {}
        for student in running:
            proven = owners.provable(student.uid, student.server, student.supervisor) if outside else ()
            pids = sorted({pid for pid in proven if pid in outside})
            if pids:
                name = self.groups.of_student(student.uid).path
                found[student.username] = f"processes of the class are not in {name}: {', '.join(map(str, pids[:5]))}"
        return found

    def _freeze_the_rest(self, students: Sequence[Student]) -> None:
        """Repeat until every process of these uids is frozen."""
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
        """Whether processes can be moved into a frozen group: not without a freezer, nor while there is no scope."""
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
        with freeze_record.changed(self.record) as recorded:
            for uid, held in wanted.items():
                recorded.setdefault(uid, Held(held.username)).take_over(held)

    def _release(self, uid: int, held: Held) -> None:
        folders = self._folders([uid])
        for folder in (path for path in folders if is_held(path.name)):
            for pid in members(folder):
                if (handle := processes.identify(pid)) is not None:
                    enter_path(self.groups, held.moved.get(handle, "/"), pid)
            self.groups.remove_folder(folder)
        for folder in folders:
            _write(folder, is_frozen=False)
        for handle in sorted(held.stopped, key=lambda handle: handle.pid, reverse=True):  # children first, a shell last
            _signal(handle, uid, signal.SIGCONT)


def _write(folder: Path, *, is_frozen: bool) -> None:
    try:
        if (folder / "freezer.state").exists():
            (folder / "freezer.state").write_text("FROZEN" if is_frozen else "THAWED")
        else:
            (folder / "cgroup.freeze").write_text("1" if is_frozen else "0")
    except OSError as error:
        if folder.is_dir():  # otherwise the group and all of its processes are gone
            raise HostError(f"{folder} cannot be frozen: {error.strerror}") from error


def _is_set_to_freeze(folder: Path) -> bool:
    """Whether the group is to be frozen, also while a process in it still runs."""
    try:
        if (folder / "freezer.state").exists():
            return (folder / "freezer.self_freezing").read_text().strip() == "1"
        return (folder / "cgroup.freeze").read_text().strip() == "1"
    except OSError:
        return False


def _wait(folder: Path) -> None:
    """Wait until all of it is frozen: a task inside the kernel (in a write(2), say) is frozen when it returns."""
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
    """Unless the process has ended, or has another uid by now."""
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
