"""A control group for each student's server and everything it starts: to find it all again, and to end it all.

No controller is needed for that. Which kind there is depends on the host: a scope of systemd's with sub-groups of
ours, cgroup v2 without systemd, a v1 hierarchy, or nothing that we may write; then we fall back to what can be proven
from sessions and parents (nblauncher.owners). Controllers, which nblauncher.limits uses, are those of the group itself
(v2), or groups of the same name in v1 hierarchies beside it. Everything here runs as root.
Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from nblauncher import processes
from nblauncher.errors import HostError

_MOUNTS = Path("/proc/self/mounts")
_SYSTEMD = Path("/run/systemd/system")
_SCOPE_DEADLINE = 10.0


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
    """Controllers that are v1 hierarchies of their own: the course's folder there."""

    def group(self, name: str) -> Group:
        beside = tuple((controller, root / name) for controller, root in self.beside)
        return Group(self.kind, self.root / name if self.kind is not Kind.NONE else Path(), beside)

    def of_student(self, uid: int) -> Group:
        """The group of a student's server and of all that comes from it. Nowhere else is its name made."""
        return self.group(f"{_STUDENT}{uid}")

    def held(self, uid: int) -> Group:
        """Where the student's processes from outside of the class are while they are frozen: no limits in there."""
        return replace(self.group(f"{_HELD}{uid}"), beside=())

    def uids(self) -> frozenset[int]:
        """Of which students there are groups now."""
        return frozenset(uid for name in self.names() if (uid := _uid_in(name)) is not None)

    def everywhere(self, uid: int) -> tuple[Path, ...]:
        """The student's groups, of this course and of the others on this host, that are there now."""
        if self.kind is Kind.NONE:
            return ()
        names = (f"{_STUDENT}{uid}", f"{_HELD}{uid}")
        found = (course / name for course in sorted(self.root.parent.glob(self._courses)) for name in names)
        return tuple(path for path in found if path.is_dir())

    @property
    def _courses(self) -> str:
        return _scope_name("*") if self.kind is Kind.SCOPE else "*"

    def names(self) -> tuple[str, ...]:
        """The groups that are there now."""
        if self.kind is Kind.NONE:
            return ()
        return tuple(sorted(folder.name for folder in _folders_in(self.root)))

    def remove_folder(self, folder: Path) -> None:
        """One of `everywhere`, and what is empty above it."""
        above = () if self.kind is Kind.SCOPE else (folder.parent, folder.parents[1])
        for one in (folder, *above):
            _remove(one)

    def remove(self) -> None:
        """Remove what is empty: the course's groups, then the folders above that are ours. What is in use stays."""
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
    """One group. For Kind.NONE it tracks nobody: use nblauncher.owners."""

    kind: Kind
    path: Path
    beside: tuple[tuple[str, Path], ...] = ()
    """The group in v1 hierarchies of controllers."""

    def create(self) -> None:
        """Make it if it is not there. HostError when the host says no."""
        for path in self._paths():
            try:
                for folder in (*reversed(path.parents), path):
                    _make(folder)
            except OSError as error:
                raise HostError(f"cannot make the control group {path}: {error.strerror}") from error

    def show_to(self, gid: int) -> None:
        """Let this Unix group read what the kernel counts in here. Who else is in other groups nobody sees."""
        for path in self._paths():
            os.chown(path, 0, gid)
            path.chmod(0o710)

    def enter(self, pid: int) -> None:
        """Move a process into the group; what it starts from now on is in there too."""
        for path in self._paths():
            (path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> tuple[int, ...]:
        """Everybody in the group and in the groups below it."""
        if self.kind is Kind.NONE:
            return ()
        return members(self.path)

    def is_empty(self) -> bool:
        """Whether nobody is in it any more, nor below.

        `pids` leaves out a process whose last thread is just ending and still holds what it had open.
        Source: cgroups(7), `populated` (v2) and `tasks` (v1).
        """
        if self.kind in (Kind.V2, Kind.SCOPE):
            with contextlib.suppress(OSError):  # it was removed
                return "populated 0" in (self.path / "cgroup.events").read_text().splitlines()
            return True
        return self.kind is Kind.NONE or not members(self.path, "tasks")

    def kill(self) -> None:
        """SIGKILL to everybody in it. Call again until `is_empty`: without cgroup.kill a fork may win a round."""
        if self.kind is Kind.NONE:
            return
        try:
            (self.path / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            self._kill_one_by_one()
        except OSError as error:
            # Older than Linux 5.14: no such file can be made here.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENODEV):
                raise
            self._kill_one_by_one()

    def remove(self) -> None:
        """Remove it with the groups below when nobody is in them."""
        for path in self._paths():
            for folder, _names, _files in os.walk(path, topdown=False):
                _remove(Path(folder))

    def _paths(self) -> tuple[Path, ...]:
        own = () if self.kind is Kind.NONE else (self.path,)
        return (*own, *dict(self.beside).values())

    def _kill_one_by_one(self) -> None:
        """Frozen, nobody can fork away between reading the list and the signal (v1 freezer only)."""
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
    """Everybody in the group at this path and in the groups below it; nobody when there is no such group."""
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
    """Move a process into a group of `own_path` or, where that is gone or takes nobody, into the next one above."""
    hierarchy = _hierarchy(groups)
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # it is outside of what our own namespace shows
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
    """The course's groups on this host; looks only. They are made when the first group is."""
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


def hand_down(groups: Groups) -> frozenset[str]:
    """Let the course's groups have every controller that the host offers for limits; which they have now.

    For v2 and a scope it is written from the top down; a scope has what systemd delegates. A folder with processes of
    its own hands nothing down (cgroups(7), "no internal processes"): cpu and pids it could, but then nobody could enter
    the groups below ("thread mode"). Only the host's root is free of that, which has no cgroup.type.
    """
    given: set[str] = set()
    if groups.kind in (Kind.V2, Kind.SCOPE):
        top = groups.root if groups.kind is Kind.SCOPE else groups.root.parents[1]
        for folder in (top, *([groups.root.parent, groups.root] if top != groups.root else [])):
            _make(folder)
            if (folder / "cgroup.type").exists() and _words_of(folder / "cgroup.procs"):
                break
            for controller in _words_of(folder / "cgroup.controllers").intersection(CONTROLLERS):
                with contextlib.suppress(OSError):  # what it has then is read below
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        given = _words_of(groups.root / "cgroup.subtree_control")
    return frozenset(given | dict(groups.beside).keys()).intersection(CONTROLLERS)


def offered(groups: Groups) -> frozenset[str]:
    """The controllers that a group of this course has, or would have: looks only.

    To a scope that is not there yet systemd will hand down all that the host has, whatever its slice has now
    (systemd.resource-control(5), Delegate=).
    """
    folder = groups.root
    if groups.kind is Kind.SCOPE and not folder.is_dir():
        folder = folder.parents[1]
    while folder != folder.parent and not (folder / "cgroup.controllers").exists():
        folder = folder.parent
    own = _words_of(folder / "cgroup.controllers") if groups.kind in (Kind.V2, Kind.SCOPE) else set()
    return frozenset(own | dict(groups.beside).keys()).intersection(CONTROLLERS)


def enter_scope(groups: Groups, pid: int) -> Groups:
    """Move the supervisor into the course's scope, made by systemd when it is not there yet.

    Other kinds need nothing. Where systemd refuses, the course gets no groups: its cgroup tree is systemd's alone.
    """
    if groups.kind is not Kind.SCOPE:
        return groups
    if not groups.root.is_dir():
        try:
            _start_scope(groups.root.name, pid)
            _wait_until_in(groups.root, pid)
        except HostError:
            return Groups(Kind.NONE)
    own = groups.group("supervisor")
    own.create()
    own.enter(pid)
    return groups


def is_held(name: str) -> bool:
    """Whether a group of this name is for processes that are not the class's (Groups.held)."""
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
        return [entry for entry in root.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []


def _words_of(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except OSError:
        return set()


def _scope_name(course: str) -> str:
    return f"nblauncher-{course}.scope"


def _start_scope(name: str, pid: int) -> None:
    """Ask systemd for a scope around the supervisor; Delegate makes the tree below it ours.

    Without TasksMax a whole class could have what systemd allows one unit (systemd-system.conf(5), DefaultTasksMax=).
    """
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    properties = (
        ("PIDs", "au", "1", str(pid)),
        ("Delegate", "b", "true"),
        ("TasksMax", "t", str(2**64 - 1)),
        ("Description", "s", "A Jupyter class (nblauncher)"),
        ("CollectMode", "s", "inactive-or-failed"),
    )
    flat = (word for one in properties for word in one)
    signature = ("ssa(sv)a(sa(sv))", name, "fail", str(len(properties)))
    processes.run(["busctl", "call", *manager, "StartTransientUnit", *signature, *flat, "0"])


def _wait_until_in(folder: Path, pid: int) -> None:
    """The folder is there before systemd moves the process into it. Who goes on too early is moved back, out of a group
    below, and then the scope cannot hand controllers down ("no internal processes").
    """
    deadline = time.monotonic() + _SCOPE_DEADLINE
    while str(pid) not in _words_of(folder / "cgroup.procs"):
        if time.monotonic() > deadline:
            raise HostError(f"systemd did not move process {pid} into {folder}")
        time.sleep(0.02)


def _make(folder: Path) -> None:
    """Whatever the umask is: whoever may read a group's counts must get there."""
    if not folder.is_dir():
        with contextlib.suppress(FileExistsError):  # another course's supervisor was quicker
            folder.mkdir()
        folder.chmod(0o711)


def _remove(folder: Path) -> None:
    # EBUSY: somebody is in it, or another course's group is below it.
    with contextlib.suppress(OSError):
        folder.rmdir()
