"""A mount namespace for each student of a class, shared by the server, its kernels and its terminals.

In it the student has private temporary folders, and /proc hides other accounts' processes. Root makes the namespace and
keeps a descriptor of it. Before root enters one, it checks that root made it: a mount namespace belongs to the user
namespace of its maker, so one made by root belongs to our user namespace, and one made by a student, whose /etc the
student could choose, never does.
Sources: mount_namespaces(7), setns(2), ioctl_ns(2) NS_GET_USERNS, proc(5) "hidepid", tmpfs(5), user_namespaces(7).

A namespace is not recorded as a bind mount: since Linux 6.18 that fails now and then below another namespace.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.paths import PRIVATE
from nblauncher.system import libc
from nblauncher.system.mounts import mounts

_SMALL = ("/run/lock", "/run/screen")
"""Other folders of that kind, for small files."""

_HIDDEN = "/run/user"
"""Sockets of a login's services: they must not start processes of a class outside of its limits."""

_OWN = "/proc/self/ns/mnt"
_GET_USERNS = 0xB701
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_FLAGS = {
    "nosuid": libc.MS_NOSUID,
    "nodev": libc.MS_NODEV,
    "noexec": libc.MS_NOEXEC,
    "noatime": libc.MS_NOATIME,
    "nodiratime": libc.MS_NODIRATIME,
}
_SAFE = libc.MS_NOSUID | libc.MS_NODEV
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ESTALE, errno.ENOTCONN)
"""Errors of a mount point that another mount covers, or that lost its server: no path leads there."""

_SERVICES = ("/run", "/var/run", "/var/lock")
"""Where the sockets of the host's services are; an enclosed program must not reach them."""

_RESOLVER = "/etc/resolv.conf"
APART = "Packages are built only where they cannot leave anything on the host; or name notebook.kernel_python instead."
_HIDEPID_SINCE = (5, 8)
"""Before this version of Linux hidepid was for the whole host at once."""


class Namespaces:
    """The namespaces of a course, by uid. `others` is a folder with a mount for each student (JUPYTER_RUNTIME_DIR), of
    which each student sees only one.
    """

    def __init__(self, others: Path) -> None:
        self._others = others
        self._held: dict[int, int] = {}

    def path(self, uid: int) -> Path | None:
        """The path by which root's other processes can enter it while this one lives; None when there is none."""
        held = self._held.get(uid)
        return None if held is None else Path(f"/proc/{os.getpid()}/fd/{held}")

    def provide(self, uid: int, size: int) -> Path:
        """Make a new one for the student. `size`: bytes of each temporary folder. HostError."""
        self.take_away(uid)
        with _new():
            for folder in self._of_others(uid):
                with contextlib.suppress(OSError):
                    libc.umount2(folder, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
            # Held by a descriptor, because /proc is about to be remounted.
            descriptor = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _furnish(size)
            except BaseException:
                os.close(descriptor)
                raise
        self._held[uid] = descriptor
        return Path(f"/proc/{os.getpid()}/fd/{descriptor}")

    def adopt(self, uid: int, pid: int) -> None:
        """Hold the namespace of this process of the student's, unless it is the host's or root did not make it."""
        try:
            descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        if (
            uid in self._held
            or not _is_made_by_root(descriptor)
            or os.path.samestat(os.fstat(descriptor), os.stat(_OWN))
        ):
            os.close(descriptor)
        else:
            self._held[uid] = descriptor

    def take_away(self, uid: int) -> None:
        """Close it: the kernel removes it, and its temporary folders, with its last process."""
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


def enter(file: Path, others: Collection[Path] = ()) -> None:
    """Move the calling process, a forked child with one thread, as root, into it, and into `others` of other kinds; the
    working directory is / then.

    HostError.
    """
    with contextlib.ExitStack() as stack:
        descriptors = []
        for path in (*others, file):  # the mount namespace last: the paths do not lead anywhere in it
            try:
                descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise HostError(f"the student's mount namespace is gone: {error.strerror}") from error
            stack.callback(os.close, descriptors[-1])
            if not _is_made_by_root(descriptors[-1]):
                raise HostError(f"{path} is not a namespace that root made")
        with named("entering the student's mount namespace"):
            for descriptor in descriptors[:-1]:
                libc.setns(descriptor, 0)
            libc.setns(descriptors[-1], libc.CLONE_NEWNS)


def leave_the_host(*, has_network: bool) -> None:
    """Move the calling process, as root and with one thread, into new mount and IPC namespaces, and its children into a
    new process namespace; without `has_network` also into a network namespace without a network. HostError.
    """
    flags = libc.CLONE_NEWNS | libc.CLONE_NEWIPC | libc.CLONE_NEWPID | (0 if has_network else libc.CLONE_NEWNET)
    with named("making namespaces to build packages in", APART):
        libc.unshare(flags)


def close_off(home: Path, size: int, *, has_network: bool, visible: Iterable[Path] = ()) -> None:
    """For the first process after `leave_the_host`: everything is read-only except `home` and private temporary folders
    of `size` bytes each. It sees nothing that is beside `home`, and no socket of the host's services.

    `visible` folders stay readable even where a temporary folder covers them. HostError.
    """
    mount("", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    home_held = _hold(home)
    covered = [(folder, _hold(folder)) for folder in visible if folder.is_dir()]
    services, temporary = _resolved(_SERVICES), _resolved(PRIVATE)
    resolver = _resolver_below(services) if has_network else None
    for point, flags in _mount_points():
        with named(f"making {point} read-only", APART, but=_UNREACHABLE):
            libc.mount("none", point, "", libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | flags)
    for folder in services:
        mount("nblauncher", folder, "tmpfs", _SAFE, "mode=0755,size=1m")
    for folder in temporary:
        folder.mkdir(exist_ok=True)  # /dev/shm may be a link to /run/shm
        mount("nblauncher", folder, "tmpfs", _SAFE, f"mode=1777,size={size},nr_inodes=200k")
    if resolver is not None:
        resolver[0].parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        resolver[0].write_bytes(resolver[1])
    for folder, held in covered:
        _show(held, folder, libc.MS_RDONLY)
    mount("nblauncher", home.parent, "tmpfs", _SAFE, "mode=0755,size=64k")
    _show(home_held, home, 0)
    mount("proc", Path("/proc"), "proc", _SAFE | libc.MS_NOEXEC)


def bring_up_loopback() -> None:
    """127.0.0.1 in the network namespace of the calling process. OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(link, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def objection() -> str:
    """Why this host cannot have such namespaces; empty when it can. Tries it in a child, as root."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        words = ""
        try:
            with named("a mount namespace"):
                libc.unshare(libc.CLONE_NEWNS)
            mount("", "/", "", libc.MS_REC | libc.MS_SLAVE)
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
    """Whether /proc in a namespace can hide other processes than the host's /proc does."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= _HIDEPID_SINCE


@contextlib.contextmanager
def _new() -> Iterator[None]:
    """Put the calling process into a new namespace for the block; after it, the working directory is /."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with named("making a mount namespace"):
            libc.unshare(libc.CLONE_NEWNS)
        try:
            mount("", "/", "", libc.MS_REC | libc.MS_SLAVE)
            yield
        finally:
            with named("coming back from a mount namespace"):
                libc.setns(own, libc.CLONE_NEWNS)
    finally:
        os.close(own)


def _furnish(size: int) -> None:
    """Mount the student's private folders and /proc."""
    done = set()
    for name in PRIVATE:
        folder = Path(name).resolve()  # /dev/shm may be a link, /var/tmp as well
        if folder.is_dir() and folder not in done:
            done.add(folder)
            mount("nblauncher", folder, "tmpfs", _SAFE, f"mode=1777,size={size},nr_inodes=200k")
    for name in _SMALL:
        if Path(name).is_dir():
            mount("nblauncher", Path(name), "tmpfs", _SAFE | libc.MS_NOEXEC, "mode=1777,size=1m")
    if Path(_HIDDEN).is_dir():
        mount("nblauncher", Path(_HIDDEN), "tmpfs", _SAFE | libc.MS_NOEXEC, "mode=0755,size=64k")
    if hides_processes():
        mount("proc", Path("/proc"), "proc", _SAFE | libc.MS_NOEXEC, "hidepid=2")


def _hold(folder: Path) -> int:
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _show(held: int, folder: Path, flags: int) -> None:
    """Bind a held folder to the place where it was before it was covered."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    mount(f"/proc/self/fd/{held}", folder, "", libc.MS_BIND)
    mount("none", folder, "", libc.MS_REMOUNT | libc.MS_BIND | _SAFE | flags)
    os.close(held)


def _mount_points() -> list[tuple[str, int]]:
    """The mount points, each with those of its flags that a remount must repeat."""
    return [(mount.point, sum(_FLAGS.get(option, 0) for option in mount.options)) for mount in mounts()]


def _resolved(names: Iterable[str]) -> list[Path]:
    """The existing ones with links resolved, without those that are below another."""
    found = dict.fromkeys(folder for name in names if (folder := Path(name).resolve()).is_dir())
    return [folder for folder in found if not any(above in found for above in folder.parents)]


def _resolver_below(services: Iterable[Path]) -> tuple[Path, bytes] | None:
    """The target of /etc/resolv.conf, with its content, if it is below these folders; otherwise None."""
    file = Path(_RESOLVER).resolve()
    if not any(file.is_relative_to(folder) for folder in services):
        return None
    try:
        return file, file.read_bytes()
    except FileNotFoundError:
        return None


def _is_made_by_root(descriptor: int) -> bool:
    """Whether this namespace belongs to our user namespace. False for anything else than a namespace."""
    try:
        owner = fcntl.ioctl(descriptor, _GET_USERNS)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    finally:
        os.close(owner)


def mount(source: str, target: Path | str, kind: str, flags: int, options: str = "") -> None:
    with named(f"mounting {kind or 'something'} on {target}"):
        libc.mount(source, target, kind, flags, options)


@contextlib.contextmanager
def named(
    what: str, hint: str = "Set `isolation: false` on such a host.", *, but: Collection[int] = ()
) -> Iterator[None]:
    """An OSError of the block becomes a HostError that says what failed; one with an errno of `but` is ignored."""
    try:
        yield
    except OSError as error:
        if error.errno not in but:
            raise HostError(f"{what} failed: {error.strerror}", hint) from error
