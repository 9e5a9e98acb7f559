"""What one confined program sees of the host: the system's programs and settings, a few folders, and its own home.

Root makes a mount, a network and an IPC namespace together, in a child, and holds them by descriptors; a forked process
enters all three (Sandbox). There is no network, not even a neighbour's abstract socket; /home, /root, /var, /srv, /run
and whatever else the host has are not there at all; temporary folders and the home are in memory and end with it.
Sources: mount_namespaces(7), setns(2) (the root of the namespace becomes the process's root), network_namespaces(7),
ipc_namespaces(7), mount(2) MS_MOVE, tmpfs(5).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nblauncher.errors import HostError
from nblauncher.isolation import namespaces
from nblauncher.isolation.namespaces import mount, named
from nblauncher.model import Account
from nblauncher.system import libc, privileges

HOME = Path("/home/submission")
"""The home, as the program sees it."""

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "etc")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SAFE = libc.MS_NOSUID | libc.MS_NODEV
_KINDS = ("net", "ipc", "mnt")
_HINT = "Submissions are graded only where they can be confined."


@dataclass(frozen=True, slots=True)
class View:
    """`root` is an empty folder of root's, on which the view is put together."""

    root: Path
    account: Account
    size: int
    """Bytes of the home, and of each temporary folder."""
    readable: tuple[Path, ...] = ()
    """Folders that are seen at their own paths, read-only."""
    shared: tuple[tuple[Path, Path], ...] = ()
    """Folders of the host, and where each is seen, with the rights that its mode gives."""


class Held:
    """The namespaces of a view, while this process lives and has not closed it."""

    def __init__(self, descriptors: dict[str, int]) -> None:
        self._descriptors = descriptors

    @property
    def mounts(self) -> Path:
        return self._path("mnt")

    @property
    def others(self) -> tuple[Path, ...]:
        return self._path("net"), self._path("ipc")

    def _path(self, kind: str) -> Path:
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptors[kind]}")

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}


@contextlib.contextmanager
def held(*views: View) -> Iterator[tuple[Held, ...]]:
    """Make them, for a process with one thread, as root. HostError when this host cannot."""
    said, say = os.pipe2(os.O_CLOEXEC)
    wait, go = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as stack:
        stack.callback(os.close, said)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_the_maker(views, parent, say, wait, go)
        os.close(say)
        os.close(wait)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.close, go)
        made = []
        for _view in views:
            words = os.read(said, 4096).decode(errors="replace")
            if words != "made":
                raise HostError(words or "a namespace cannot be made", _HINT)
            made.append(Held({kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in _KINDS}))
            kept.callback(made[-1].close)
            os.write(go, b"!")
        stack.close()
        yield tuple(made)


def _be_the_maker(views: tuple[View, ...], parent: int, say: int, wait: int, go: int) -> NoReturn:
    """Put one together after the other, and keep its namespaces alive until the parent has opened them."""
    words = ""
    try:
        os.close(go)
        privileges.die_with_parent(parent)
        host, root = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        for number, view in enumerate(views):
            with named("making namespaces for a submission", _HINT):
                if number:
                    libc.setns(host, libc.CLONE_NEWNS)
                    os.fchdir(root)
                    os.chroot(".")
                libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWIPC)
            namespaces.bring_up_loopback()
            _furnish(view)
            os.write(say, b"made")
            if not os.read(wait, 1):
                break
    except HostError as error:
        words = error.problem
    except OSError as error:
        words = f"{error.filename or 'a namespace'}: {error.strerror}"
    finally:
        if words:
            os.write(say, words.encode()[:4000])
        os._exit(0)


def _furnish(view: View) -> None:
    mount("", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    root = view.root
    mount("nblauncher", root, "tmpfs", _SAFE, "mode=0755,size=4m")
    os.umask(0o022)
    for name in _SYSTEM:
        source = Path("/", name)
        if source.is_symlink():
            (root / name).symlink_to(os.readlink(source))
        elif source.is_dir():
            _bind(source, root / name, _SAFE | libc.MS_RDONLY)
    for source in _tops(view.readable):
        if not any(source.is_relative_to(f"/{name}") for name in _SYSTEM):
            _bind(source, root.joinpath(*source.parts[1:]), _SAFE | libc.MS_RDONLY)
    for source, place in view.shared:
        _bind(source, root.joinpath(*place.parts[1:]), _SAFE | libc.MS_NOEXEC)
    _make_devices(root / "dev", view.size)
    for name in ("tmp", "var/tmp"):
        _make_temporary(root / name, view.size, "mode=1777")
    account = view.account
    home = root.joinpath(*HOME.parts[1:])
    _make_temporary(home, view.size, f"mode=0700,uid={account.uid},gid={account.gid}")
    (root / "proc").mkdir()
    hidden = "hidepid=2" if namespaces.hides_processes() else ""
    mount("proc", root / "proc", "proc", _SAFE | libc.MS_NOEXEC, hidden)
    mount("none", root, "", libc.MS_REMOUNT | libc.MS_BIND | _SAFE | libc.MS_RDONLY)
    os.chdir(root)
    mount(".", "/", "", libc.MS_MOVE)
    os.chroot(".")


def _bind(source: Path, target: Path, flags: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    mount(str(source), target, "", libc.MS_BIND)
    mount("none", target, "", libc.MS_REMOUNT | libc.MS_BIND | flags)


def _make_temporary(folder: Path, size: int, options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mount("nblauncher", folder, "tmpfs", _SAFE, f"{options},size={size},nr_inodes=100k")


def _make_devices(folder: Path, size: int) -> None:
    """The few that programs need. A device of the host works through a bind of it alone."""
    folder.mkdir()
    for name in _DEVICES:
        (folder / name).touch()
        mount(f"/dev/{name}", folder / name, "", libc.MS_BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (folder / name).symlink_to(f"/proc/self/fd/{number}")
    (folder / "fd").symlink_to("/proc/self/fd")
    _make_temporary(folder / "shm", size, "mode=1777")


def _tops(folders: tuple[Path, ...]) -> list[Path]:
    """With links resolved and also as named, without those below another."""
    named_and_real = sorted({path for folder in folders for path in (folder, Path(os.path.realpath(folder)))})
    existing = [folder for folder in named_and_real if folder.is_dir()]
    return [folder for folder in existing if not any(above in existing for above in folder.parents)]
