"""A mount namespace for each student of a class, shared by the server, its kernels and its terminals.

In it the temporary folders are the student's own, and /proc shows no other user's processes. Root makes it and holds it
by a descriptor. Before root enters one it looks who made it: a mount namespace belongs to the user namespace that its
maker was in, so one that belongs to our own was made by root, and one of a student's making (whose /etc would be the
student's choice) never does.
Sources: mount_namespaces(7), setns(2), ioctl_ns(2) NS_GET_USERNS, proc(5) "hidepid", tmpfs(5), user_namespaces(7).

A namespace is not recorded as a bind mount: since Linux 6.18 that fails now and then below another namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nblauncher.errors import HostError

PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
"""Folders that everybody may write to; in the namespace each is a file system of its own, of a limited size."""

_SMALL = ("/run/lock", "/run/screen")
"""Others like them, for little files."""

_HIDDEN = "/run/user"
"""Where a login's services are: nothing of a class is started by those, outside of its limits."""

_OWN = "/proc/self/ns/mnt"
_NEWNS, _NEWIPC, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000
_GET_USERNS = 0xB701
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384
_PRIVATE, _SLAVE = 1 << 18, 1 << 19
_FLAGS = {"nosuid": _NOSUID, "nodev": _NODEV, "noexec": _NOEXEC, "noatime": 1024, "nodiratime": 2048}
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ESTALE, errno.ENOTCONN)
"""What a mount point says that is below another mount, or whose server is gone: nobody writes there by its path."""

_SERVICES = ("/run", "/var/run", "/var/lock")
"""Where the sockets of the host's services are; a program that was enclosed asks none of them."""

_RESOLVER = "/etc/resolv.conf"
APART = "Packages are built only where they cannot leave anything on the host; or name notebook.kernel_python instead."
_DETACH, _NOFOLLOW = 2, 8
_HIDEPID_SINCE = (5, 8)
"""Before this version of Linux hidepid was for the whole host at once."""

_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    """Those of a course, by uid. `others` is a folder whose mounts are the students' (JUPYTER_RUNTIME_DIRs), of which
    each sees the own one only.
    """

    def __init__(self, others: Path) -> None:
        self._others = others
        self._held: dict[int, int] = {}

    def path(self, uid: int) -> Path | None:
        """What other processes of root's enter the student's by, while this one lives; None when there is none."""
        held = self._held.get(uid)
        return None if held is None else Path(f"/proc/{os.getpid()}/fd/{held}")

    def provide(self, uid: int, size: int) -> Path:
        """A new one for the student. `size`: bytes that each temporary folder may take. HostError."""
        self.take_away(uid)
        with _new():
            for folder in self._of_others(uid):
                _libc.umount2(os.fsencode(folder), _DETACH | _NOFOLLOW)
            # By its descriptor, because /proc is about to become another one.
            descriptor = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _furnish(size)
            except BaseException:
                os.close(descriptor)
                raise
        self._held[uid] = descriptor
        return Path(f"/proc/{os.getpid()}/fd/{descriptor}")

    def adopt(self, uid: int, pid: int) -> None:
        """Hold the one that this process of the student's is in, unless it is the host's or not of root's making."""
        try:
            descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        if uid in self._held or not _is_roots(descriptor) or os.path.samestat(os.fstat(descriptor), os.stat(_OWN)):
            os.close(descriptor)
        else:
            self._held[uid] = descriptor

    def take_away(self, uid: int) -> None:
        """Let go of it: it goes with its last process, and what is in its temporary folders too."""
        held = self._held.pop(uid, None)
        if held is not None:
            os.close(held)

    def close(self) -> None:
        for uid in list(self._held):
            self.take_away(uid)

    def _of_others(self, uid: int) -> list[Path]:
        try:
            names = os.listdir(self._others)
        except FileNotFoundError:
            return []
        return [self._others / name for name in names if name != str(uid)]


def enter(file: Path) -> None:
    """Move the calling process, a forked child with one thread, as root; its working folder is / then. HostError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"the student's mount namespace is gone: {error.strerror}") from error
    try:
        if not _is_roots(descriptor):
            raise HostError(f"{file} is no mount namespace of root's making")
        _check(_libc.setns(descriptor, _NEWNS), "entering the student's mount namespace")
    finally:
        os.close(descriptor)


def leave_the_host(*, has_network: bool) -> None:
    """The calling process, root's and with one thread, gets mounts and IPC of its own, and its children processes of
    their own; without `has_network` it has no network either. HostError.
    """
    flags = _NEWNS | _NEWIPC | _NEWPID | (0 if has_network else _NEWNET)
    _check(_libc.unshare(flags), "making namespaces to build packages in", APART)


def close_off(home: Path, size: int, *, has_network: bool, visible: Iterable[Path] = ()) -> None:
    """For the first process after `leave_the_host`: everything is read-only but `home`, and temporary folders of `size`
    bytes each, which are its own. Of what is beside `home` it sees nothing, and no socket of the host's services.

    `visible` are folders that stay readable where a temporary one covers them. HostError.
    """
    _mount("", "/", "", _REC | _PRIVATE)
    home_held = _hold(home)
    covered = [(folder, _hold(folder)) for folder in visible if folder.is_dir()]
    services, temporary = _resolved(_SERVICES), _resolved(PRIVATE)
    resolver = _resolver_below(services) if has_network else None
    for point, flags in _mount_points():
        result = _libc.mount(b"none", point, None, ctypes.c_ulong(_REMOUNT | _BIND | _READ_ONLY | flags), None)
        if result != 0 and ctypes.get_errno() not in _UNREACHABLE:
            _check(result, f"making {os.fsdecode(point)} read-only", APART)
    for folder in services:
        _mount("nblauncher", folder, "tmpfs", _NOSUID | _NODEV, "mode=0755,size=1m")
    for folder in temporary:
        folder.mkdir(exist_ok=True)  # /dev/shm may be a link to /run/shm
        _mount("nblauncher", folder, "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={size},nr_inodes=200k")
    if resolver is not None:
        resolver[0].parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        resolver[0].write_bytes(resolver[1])
    for folder, held in covered:
        _show(held, folder, _READ_ONLY)
    _mount("nblauncher", home.parent, "tmpfs", _NOSUID | _NODEV, "mode=0755,size=64k")
    _show(home_held, home, 0)
    _mount("proc", Path("/proc"), "proc", _NOSUID | _NODEV | _NOEXEC)


def objection() -> str:
    """Why this host can have no such namespaces; empty when it can. Tries it in a child of its own, as root."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        words = ""
        try:
            _check(_libc.unshare(_NEWNS), "a mount namespace")
            _mount("", "/", "", _REC | _SLAVE)
            _furnish(1_000_000)
        except HostError as error:
            words = error.problem
        finally:
            os.write(writer, words.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        words = answer.read()
    os.waitpid(pid, 0)
    return words


def hides_processes() -> bool:
    """Whether /proc in a namespace can differ from the host's in what it hides."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= _HIDEPID_SINCE


@contextlib.contextmanager
def _new() -> Iterator[None]:
    """The calling process is in a new namespace inside the block, and back in its own after it, working folder /."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_NEWNS), "making a mount namespace")
        try:
            _mount("", "/", "", _REC | _SLAVE)
            yield
        finally:
            _check(_libc.setns(own, _NEWNS), "coming back from a mount namespace")
    finally:
        os.close(own)


def _furnish(size: int) -> None:
    """What the student finds in there."""
    done = set()
    for name in PRIVATE:
        folder = Path(name).resolve()  # /dev/shm may be a link, /var/tmp as well
        if folder.is_dir() and folder not in done:
            done.add(folder)
            _mount("nblauncher", folder, "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={size},nr_inodes=200k")
    for name in _SMALL:
        if Path(name).is_dir():
            _mount("nblauncher", Path(name), "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=1777,size=1m")
    if Path(_HIDDEN).is_dir():
        _mount("nblauncher", Path(_HIDDEN), "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=0755,size=64k")
    if hides_processes():
        _mount("proc", Path("/proc"), "proc", _NOSUID | _NODEV | _NOEXEC, "hidepid=2")


def _hold(folder: Path) -> int:
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _show(held: int, folder: Path, flags: int) -> None:
    """What is held, where it was before it was covered."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    _mount(f"/proc/self/fd/{held}", folder, "", _BIND)
    _mount("none", folder, "", _REMOUNT | _BIND | _NOSUID | _NODEV | flags)
    os.close(held)


def _mount_points() -> list[tuple[bytes, int]]:
    """Where something is mounted, and with which of the flags that a remount must name again."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
        found.append((point, sum(_FLAGS.get(option, 0) for option in fields[5].decode("ascii").split(","))))
    return found


def _resolved(names: Iterable[str]) -> list[Path]:
    """Those that are there, without links, and without what is below another one."""
    found = dict.fromkeys(folder for name in names if (folder := Path(name).resolve()).is_dir())
    return [folder for folder in found if not any(above in found for above in folder.parents)]


def _resolver_below(services: Iterable[Path]) -> tuple[Path, bytes] | None:
    """The file that says who resolves names, where it is only linked to; None when it is a file in /etc."""
    file = Path(_RESOLVER).resolve()
    if not any(file.is_relative_to(folder) for folder in services):
        return None
    try:
        return file, file.read_bytes()
    except FileNotFoundError:
        return None


def _is_roots(descriptor: int) -> bool:
    """Whether this mount namespace belongs to our own user namespace. False as well for anything else than one."""
    try:
        owner = fcntl.ioctl(descriptor, _GET_USERNS)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    finally:
        os.close(owner)


def _mount(source: str, target: Path | str, kind: str, flags: int, options: str = "") -> None:
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mounting {kind or 'something'} on {target}")


def _check(result: int, what: str, hint: str = "Set `isolation: off` on such a host.") -> None:
    if result != 0:
        raise HostError(f"{what} failed: {os.strerror(ctypes.get_errno())}", hint)
