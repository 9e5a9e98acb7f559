"""A control group for each student's server and all processes that it starts: to find them again, and to end them.

That needs no controller. The kind depends on the host: a systemd scope with groups of ours below it, cgroup v2 without
systemd, a v1 hierarchy, or nothing that we may write; then we use what sessions and parents prove (see owners).
Controllers, which limits uses, belong to the group itself (v2), or to groups of the same name in v1 hierarchies beside
it. Everything here runs as root.
Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from nblauncher.errors import HostError

_MOUNTS = Path("/proc/self/mounts")
_SYSTEMD = Path("/run/systemd/system")


class Kind(str, Enum):
    """What the host offers."""

    SCOPE = "systemd scope"
    V2 = "cgroup v2"
    V1 = "cgroup v1"
    NONE = "none"


_STUDENT, _HELD = "student-", "held-"

CONTROLLERS = ("memory", "cpu", "pids")
"""What a student's group can be limited with."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one course. `root` is empty for Kind.NONE."""

    kind: Kind
    root: Path = Path()
    beside: tuple[tuple[str, Path], ...] = ()
    """Controllers with a v1 hierarchy of their own, and the course's folder there."""

    def group(self, name: str) -> Group:
        beside = tuple((controller, root / name) for controller, root in self.beside)
        return Group(self.kind, self.root / name if self.kind is not Kind.NONE else Path(), beside)

    def of_student(self, uid: int) -> Group:
        """The group of a student's server and its descendants. Its name is made only here."""
        return self.group(f"{_STUDENT}{uid}")

    def held(self, uid: int) -> Group:
        """The group for the student's processes from outside of the class while they are frozen. It has no limits."""
        return replace(self.group(f"{_HELD}{uid}"), beside=())

    def by_uid(self) -> dict[int, list[Path]]:
        """The students that have a group in this course now, with all their groups, as of `everywhere`."""
        if self.kind is Kind.NONE:
            return {}
        found: dict[int, list[Path]] = {uid: [] for name in self.names() if (uid := _uid_in(name)) is not None}
        for course in sorted(self.root.parent.glob(self._courses)) if found else ():
            for folder in sorted(_folders_in(course)):
                if (uid := _uid_in(folder.name)) in found:
                    found[uid].append(folder)
        return found

    def everywhere(self, uid: int) -> tuple[Path, ...]:
        """The existing groups of the student, in this course and the others on this host."""
        if self.kind is Kind.NONE:
            return ()
        names = (f"{_STUDENT}{uid}", f"{_HELD}{uid}")
        found = (course / name for course in sorted(self.root.parent.glob(self._courses)) for name in names)
        return tuple(path for path in found if path.is_dir())

    @property
    def _courses(self) -> str:
        return _scope_name("*") if self.kind is Kind.SCOPE else "*"

    def names(self) -> tuple[str, ...]:
        """The existing groups."""
        if self.kind is Kind.NONE:
            return ()
        return tuple(sorted(folder.name for folder in _folders_in(self.root)))

    def remove_folder(self, folder: Path) -> None:
        """Remove one of `everywhere`, and what is empty above it."""
        above = () if self.kind is Kind.SCOPE else (folder.parent, folder.parents[1])
        for empty in (folder, *above):
            _remove(empty)

    def remove(self) -> None:
        """Remove what is empty: the course's groups, then our folders above. What is in use stays."""
        for root in dict(self.beside).values():
            for folder in (*_folders_in(root), root, root.parent):
                _remove(folder)
        if self.kind is Kind.NONE:
            return
        for name in self.names():
            self.group(name).remove()
        # A scope goes by itself with its last process.
        if self.kind is not Kind.SCOPE:
            for folder in (self.root, self.root.parent):
                _remove(folder)


@dataclass(frozen=True, slots=True)
class Group:
    """One group. For Kind.NONE it tracks nothing: use nblauncher.isolation.owners."""

    kind: Kind
    path: Path
    beside: tuple[tuple[str, Path], ...] = ()
    """Its counterparts in the v1 hierarchies of controllers."""

    def create(self) -> None:
        """Make it if it does not exist. HostError."""
        for path in self._paths():
            try:
                for folder in (*reversed(path.parents), path):
                    make_folder(folder)
            except OSError as error:
                raise HostError(f"cannot make the control group {path}: {error.strerror}") from error

    def show_to(self, gid: int) -> None:
        """Let this Unix group read the kernel's counters of the control group, but not see other students' groups."""
        for path in self._paths():
            os.chown(path, 0, gid)
            path.chmod(0o710)

    def enter(self, pid: int) -> None:
        """Move a process into the group; what it starts from then on is in the group too."""
        for path in self._paths():
            (path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> tuple[int, ...]:
        """The processes in the group and in the groups below it."""
        if self.kind is Kind.NONE:
            return ()
        return members(self.path)

    def is_empty(self) -> bool:
        """Whether no process is in it any more, nor below.

        `pids` omits a process while its last thread is ending, which still holds what it had open.
        Source: cgroups(7), `populated` (v2) and `tasks` (v1).
        """
        if self.kind in (Kind.V2, Kind.SCOPE):
            with contextlib.suppress(OSError):  # it was removed
                return "populated 0" in (self.path / "cgroup.events").read_text().splitlines()
            return True
        return self.kind is Kind.NONE or not members(self.path, "tasks")

    def kill(self) -> None:
        """SIGKILL all of its processes. Repeat until `is_empty`: without cgroup.kill a fork may escape."""
        if self.kind is Kind.NONE:
            return
        try:
            (self.path / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            self._kill_one_by_one()
        except OSError as error:
            # Before Linux 5.14 there is no such file, and none can be made here.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENODEV):
                raise
            self._kill_one_by_one()

    def remove(self) -> None:
        """Remove it, with the groups below, if no process is in them."""
        for path in self._paths():
            for folder, _names, _files in os.walk(path, topdown=False):
                _remove(Path(folder))

    def _paths(self) -> tuple[Path, ...]:
        own = () if self.kind is Kind.NONE else (self.path,)
        return (*own, *dict(self.beside).values())

    def _kill_one_by_one(self) -> None:
        """With the v1 freezer no process can fork between reading the list and the signal."""
        frozen = self.path / "freezer.state"
        with contextlib.suppress(OSError):
            if frozen.exists():
                frozen.write_text("FROZEN")
        try:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            with contextlib.suppress(OSError):
                if frozen.exists():
                    frozen.write_text("THAWED")


def members(path: Path | str, file: str = "cgroup.procs") -> tuple[int, ...]:
    """The processes in the group at this path and in the groups below it; none when there is no such group."""
    found: list[int] = []
    for folder, _names, _files in os.walk(path):
        # ENODEV: removed while we looked.
        with contextlib.suppress(OSError):
            found += map(int, (Path(folder) / file).read_text().split())
    return tuple(found)


def own_path(groups: Groups, pid: int) -> str | None:
    """The group of a process in the hierarchy of these groups, from its root; None when the process has ended."""
    hierarchy = _hierarchy(groups)
    try:
        lines = Path("/proc", str(pid), "cgroup").read_text().splitlines()
    except OSError:
        return None
    for _number, controllers, path in (line.split(":", 2) for line in lines):
        is_it = not controllers if groups.kind is not Kind.V1 else hierarchy.name in controllers.split(",")
        if is_it:
            return path
    return "/"


def enter_path(groups: Groups, path: str, pid: int) -> None:
    """Move a process into a group of `own_path`, or into the next one above if that is gone or refuses it."""
    hierarchy = _hierarchy(groups)
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # it is outside of our cgroup namespace
        parts = []
    for depth in range(len(parts), -1, -1):
        try:
            descriptor = os.open(hierarchy.joinpath(*parts[:depth], "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(descriptor, str(pid).encode("ascii"))
        except ProcessLookupError:
            return
        except OSError:
            continue
        finally:
            os.close(descriptor)
        return


def _hierarchy(groups: Groups) -> Path:
    """Where the hierarchy is mounted: HIERARCHY/nblauncher/COURSE, or HIERARCHY/system.slice/SCOPE."""
    return groups.root.parents[1]


def choose(course: str) -> Groups:
    """The course's groups on this host; looks only. The folders are made with the first group."""
    if _SYSTEMD.is_dir() and _mount_of("cgroup2") == Path("/sys/fs/cgroup"):
        return Groups(Kind.SCOPE, Path("/sys/fs/cgroup/system.slice") / _scope_name(course))
    beside = tuple(
        (controller, hierarchy / "nblauncher" / course)
        for controller in CONTROLLERS
        if (hierarchy := _mount_of("cgroup", controller)) is not None and os.access(hierarchy, os.W_OK)
    )
    unified = _mount_of("cgroup2")
    if unified is not None and os.access(unified, os.W_OK):
        return Groups(Kind.V2, unified / "nblauncher" / course, beside)
    for option in ("freezer", "name=systemd", "pids"):
        hierarchy = _mount_of("cgroup", option)
        if hierarchy is not None and os.access(hierarchy, os.W_OK):
            return Groups(Kind.V1, hierarchy / "nblauncher" / course, beside)
    return Groups(Kind.NONE)


def is_held(name: str) -> bool:
    """Whether a group of this name holds processes from outside of the class (Groups.held)."""
    return name.startswith(_HELD)


def _uid_in(name: str) -> int | None:
    number = name.removeprefix(_STUDENT).removeprefix(_HELD)
    return int(number) if number != name and number.isdecimal() else None


def _mount_of(kind: str, option: str = "") -> Path | None:
    for line in _MOUNTS.read_text().splitlines():
        _device, folder, filesystem, options = line.split()[:4]
        if filesystem == kind and (not option or option in options.split(",")):
            return Path(folder)
    return None


def _folders_in(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [root / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def words_of(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except OSError:
        return set()


def _scope_name(course: str) -> str:
    return f"nblauncher-{course}.scope"


def make_folder(folder: Path) -> None:
    """0711 whatever the umask is: students read their own group's counters below it."""
    if not folder.is_dir():
        with contextlib.suppress(FileExistsError):  # another course's supervisor was quicker
            folder.mkdir()
        folder.chmod(0o711)


def _remove(folder: Path) -> None:
    # EBUSY: a process is in it, or another course's group is below it.
    with contextlib.suppress(OSError):
        folder.rmdir()
