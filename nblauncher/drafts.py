"""Doors for writing: files that appear whole under a free name, and looks at what has a name already.

Nothing here follows a symlink, enters a mount or overwrites anything. The calling process is the student.
Sources: open(2) O_TMPFILE, openat2(2), linkat(2), flock(2), syncfs(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from nblauncher import files

PREFIX = ".nblauncher-"
"""How our temporary names begin."""

WRITING = PREFIX + "writing-"

_SYS_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ENOENT})
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_within(name: str, folder: int, flags: int) -> int:
    """openat2(2) that refuses links (ELOOP) and mounts (EXDEV) without asking the mounted file system anything.

    A student's own FUSE mount could keep us waiting for ever in a plain open or stat, where even SIGKILL is not heard.
    """
    how = _How(flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
    descriptor: int = _libc.syscall(
        _SYS_OPENAT2, folder, os.fsencode(name), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    if descriptor >= 0:
        return descriptor
    number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EPERM):  # Linux before 5.6, or a container that does not know it
        raise OSError(number, os.strerror(number), name)
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    if os.fstat(descriptor).st_dev != os.fstat(folder).st_dev:
        os.close(descriptor)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return descriptor


def open_folder(name: str, folder: int) -> int:
    return open_within(name, folder, os.O_RDONLY | os.O_DIRECTORY)


def open_any(name: str, folder: int) -> tuple[int, os.stat_result]:
    """A handle (O_PATH) of whatever has the name, which touches neither FIFO nor device, and its status."""
    handle = open_within(name, folder, os.O_PATH)
    return handle, os.fstat(handle)


def read_handle(handle: int) -> int:
    """Open for reading exactly the file that a handle stands for."""
    return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


@dataclass
class Draft:
    """A file being written that nobody sees yet. Close it in any case; unless it appeared, nothing is left of it."""

    descriptor: int
    folder: int
    hidden_name: str = ""
    """Only where the file system has no nameless files (NFS, FUSE)."""

    def appear(self, name: str) -> None:
        """Give the whole file a name. FileExistsError when the name is taken."""
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
    """An empty file in the folder. `nameless=False` is what happens anyway where O_TMPFILE does not work."""
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
        return True  # no locks on this file system: the course's own lock must do
    return True


def has_content(descriptor: int, sha256: str, size: int, tick: Callable[[], None]) -> bool:
    if os.fstat(descriptor).st_size != size:
        return False
    os.lseek(descriptor, 0, os.SEEK_SET)
    return files.sha256_of(descriptor, size, tick) == sha256 and os.fstat(descriptor).st_size == size


def sync(descriptor: int) -> None:
    """syncfs(2): everything written to this file system so far is on its disk. OSError when some of it is not."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
