"""Descriptors that travel between processes: sealed memory files, and descriptors taken back from a running process.

Sources: memfd_create(2), fcntl(2) "File sealing", pidfd_getfd(2), socket(7), proc(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import libc

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed(content: bytes, owner: Account) -> int:
    """A memory file with this content, sealed against changes. Runs as root; the caller closes it.

    It belongs to `owner`: only this account and root may reopen it through /proc/self/fd.
    """
    descriptor = os.memfd_create("nblauncher", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fchmod(descriptor, 0o400)
        os.fchown(descriptor, owner.uid, owner.gid)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_sealed(descriptor: int) -> bool:
    """Whether this is a memory file that is sealed against changes."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False


def unix_listener(path: Path, mode: int) -> socket.socket:
    """A listening socket in a root-owned folder; replaces what a killed process left. HostError when that fails.

    The umask must keep other accounts out until the mode is set.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot open {path}: {error.strerror}") from error
    return listener


@dataclass(frozen=True, slots=True)
class Listener:
    """What identifies a listening socket in another process."""

    port: int
    family: int
    inode: int


def describe(listening: socket.socket) -> Listener:
    return Listener(_port_of(listening), int(listening.family), os.fstat(listening.fileno()).st_ino)


def take_listener(pidfd: int, pid: int, wanted: Listener) -> socket.socket | None:
    """A duplicate of the listening socket that we once gave to this process; None when it no longer has it.

    The process may have made sockets of its own, so everything is compared on the duplicate: inode, port, that it
    listens, and that root created it (a socket's inode belongs to its creator, and only root can make one of root's).
    """
    for descriptor in _holding(pidfd, pid, f"socket:[{wanted.inode}]"):
        try:
            taken = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue
        if _is_our_listener(taken, wanted):
            return taken
        taken.close()
    return None


def take_pipe(pidfd: int, pid: int, inode: int) -> int | None:
    """The read end of the pipe that this process writes its output to; None when it no longer has the pipe.

    Non-blocking and close-on-exec; the caller closes it.
    """
    for descriptor in _holding(pidfd, pid, f"pipe:[{inode}]"):
        try:
            facts = os.fstat(descriptor)
            if stat.S_ISFIFO(facts.st_mode) and facts.st_ino == inode and facts.st_uid == 0:
                return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(descriptor)
    return None


def peer_uid(connection: socket.socket) -> int:
    """The uid that the other end of a unix socket had when it connected (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little" if socket.htons(1) != 1 else "big")


def open_private_folder(parent: int, name: str, owner: Account) -> int:
    """Make or check the folder `name` in the root-owned folder `parent`: 0700 and `owner`'s. Runs as root.

    Returns its descriptor. HostError when something else has that name: a link, a file, a folder of another account.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise HostError(f"the runtime folder {name} is not a folder: {error.strerror}", "Remove it.") from error
    facts = os.fstat(folder)
    if facts.st_uid not in (0, owner.uid):
        os.close(folder)
        raise HostError(f"the runtime folder {name} belongs to uid {facts.st_uid}", "Remove it.")
    os.fchown(folder, owner.uid, owner.gid)
    os.fchmod(folder, 0o700)
    return folder


def _port_of(listening: socket.socket) -> int:
    """0 for a unix socket, which its inode identifies."""
    return 0 if listening.family == socket.AF_UNIX else int(listening.getsockname()[1])


def _is_our_listener(taken: socket.socket, wanted: Listener) -> bool:
    facts = os.fstat(taken.fileno())
    return (
        facts.st_ino == wanted.inode
        and facts.st_uid == 0
        and int(taken.family) == wanted.family
        and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        and _port_of(taken) == wanted.port
    )


def _holding(pidfd: int, pid: int, link: str) -> Iterator[int]:
    """Duplicates of the process's descriptors that lead to `link`. The caller closes them."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}") != link:
                continue
            descriptor = libc.pidfd_getfd(pidfd, int(name))
        except OSError:
            # Closed meanwhile, or the process ended.
            continue
        yield descriptor


def read_and_close(descriptor: int) -> bytes:
    """The whole content of a memfd or file, from its beginning; the descriptor is closed."""
    try:
        parts = []
        offset = 0
        while part := os.pread(descriptor, 1 << 20, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
