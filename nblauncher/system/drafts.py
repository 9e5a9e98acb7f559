"""Write files that appear complete under a free name, and inspect what has a name already.

Nothing here follows a symlink, enters a mount or overwrites a file. The calling process is the student.
Sources: open(2) O_TMPFILE, openat2(2), linkat(2), flock(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass

from nblauncher.system import files, libc

PREFIX = ".nblauncher-"
"""How our temporary names begin."""

WRITING = PREFIX + "writing-"

_ATTEMPTS = 8
_RESOLVE = libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_MAGICLINKS | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_BENEATH
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ENOENT})


def open_within(name: str, folder: int, flags: int) -> int:
    """openat2(2) that refuses links (ELOOP) and mounts (EXDEV) without a request to the mounted file system.

    A student's FUSE mount could block a plain open or stat for ever, and not even SIGKILL would end that.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return libc.openat2(folder, name, flags, _RESOLVE)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # Linux before 5.6, or a container that forbids it
            raise
    descriptor = os.open(name, flags, dir_fd=folder)
    if os.fstat(descriptor).st_dev != os.fstat(folder).st_dev:
        os.close(descriptor)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return descriptor


def open_folder(name: str, folder: int) -> int:
    return open_within(name, folder, os.O_RDONLY | os.O_DIRECTORY)


def open_any(name: str, folder: int) -> tuple[int, os.stat_result]:
    """A handle (O_PATH) of the entry with this name, which opens neither FIFO nor device, and its status."""
    handle = open_within(name, folder, os.O_PATH)
    return handle, os.fstat(handle)


def read_handle(handle: int) -> int:
    """Open exactly the file of this handle for reading."""
    return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def kind_of(name: str, folder: int) -> int:
    """The file type of whatever has the name, as in stat.S_IFMT. OSError."""
    handle, status = open_any(name, folder)
    os.close(handle)
    return stat.S_IFMT(status.st_mode)


def is_file(name: str, folder: int) -> bool:
    """Whether a regular file has the name. False also when nothing has it, or it cannot be looked at."""
    try:
        return kind_of(name, folder) == stat.S_IFREG
    except OSError:
        return False


def open_or_make_folder(name: str, folder: int) -> int:
    """`open_folder`; a missing folder is made (0700). FileNotFoundError when it is deleted again and again."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            return open_folder(name, folder)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


@dataclass
class Draft:
    """A file that is being written and has no name yet. Always close it: unless it appeared, it is deleted then."""

    descriptor: int
    folder: int
    hidden_name: str = ""
    """Only where the file system has no nameless files (NFS, FUSE)."""

    def appear(self, name: str) -> None:
        """Give the complete file its name. FileExistsError when the name is taken."""
        if self.hidden_name:
            os.link(self.hidden_name, name, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=False)
        else:
            os.link(f"/proc/self/fd/{self.descriptor}", name, dst_dir_fd=self.folder, follow_symlinks=True)

    def close(self) -> None:
        if self.hidden_name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.hidden_name, dir_fd=self.folder)
        os.close(self.descriptor)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_draft(folder: int, mode: int, *, nameless: bool = True) -> Draft:
    """An empty file in the folder. Where O_TMPFILE does not work it is as with `nameless=False`."""
    if nameless:
        try:
            descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=folder)
            return Draft(descriptor, folder)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    name = WRITING + secrets.token_hex(8)
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=folder)
    lock(descriptor)
    return Draft(descriptor, folder, name)


def lock(descriptor: int) -> bool:
    """Mark a temporary file as in use, until the descriptor is closed; False when another run uses it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks on this file system: the course's lock has to be enough
    return True


def has_content(descriptor: int, sha256: str, size: int, tick: Callable[[], None]) -> bool:
    if os.fstat(descriptor).st_size != size:
        return False
    os.lseek(descriptor, 0, os.SEEK_SET)
    return files.sha256_of(descriptor, size, tick) == sha256 and os.fstat(descriptor).st_size == size
