"""What already has a name in a home that material should have: looked at, never followed, never moved."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.system import drafts, files

HOST_SAYS_NO = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "the home's file system is read-only",
    errno.EIO: "the home's disk reports errors",
    errno.ENOMEM: "out of memory",
    errno.ENFILE: "too many open files on the host",
    errno.EMFILE: "too many open files",
}
"""Errors of the host, whatever the name."""

_WORDS = {
    errno.ELOOP: "a link is in its place",
    errno.ENOTDIR: "something else is where its folder should be",
    errno.EXDEV: files.OTHER_DEVICE,
}


class Changed(Exception):
    """Something changed between the look and the act: look again."""


class Missing(Exception):
    """The folder of the file is missing."""


class Blocked(Exception):
    """Something of the student's has the name, and is not ours to move. Says what it is."""


class BlockedByFolder(Blocked):
    """A folder has the name of a file."""


class BlockedByFile(Blocked):
    """A file has the name of a folder on the way; `path` is its own."""

    def __init__(self, words: str, path: str) -> None:
        super().__init__(words)
        self.path = path


@dataclass(frozen=True, slots=True)
class Existing:
    """A regular file that has the name. `descriptor` is -1 when even the student may not read it."""

    descriptor: int
    status: os.stat_result

    def has(self, sha256: str, size: int, tick: Callable[[], None] = lambda: None) -> bool:
        """Whether it can be read and has this content."""
        if self.descriptor < 0 or self.status.st_size != size:
            return False
        return drafts.has_content(self.descriptor, sha256, size, tick)

    def read(self) -> bytes:
        """The bytes, up to the size it had when it was looked at."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return b"".join(files.chunks(self.descriptor, self.status.st_size))


def open_home(home: Path) -> int:
    """HostError unless it is a folder of this process's account."""
    try:
        root = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"the home {home} cannot be opened: {os.strerror(error.errno or 0).lower()}") from error
    if os.fstat(root).st_uid != os.geteuid():
        raise HostError(f"the home {home} belongs to uid {os.fstat(root).st_uid}, not to the student")
    return root


@contextmanager
def look(name: str, folder: int) -> Iterator[Existing | None]:
    """The regular file that has the name, None when the name is free; Blocked when something else has it."""
    with ExitStack() as closing:
        try:
            handle, status = drafts.open_any(name, folder)
        except FileNotFoundError:
            yield None
            return
        closing.callback(os.close, handle)
        if not stat.S_ISREG(status.st_mode):
            kind = BlockedByFolder if stat.S_ISDIR(status.st_mode) else Blocked
            raise kind(_kind(status))
        try:
            descriptor = drafts.read_handle(handle)
            closing.callback(os.close, descriptor)
        except PermissionError:
            descriptor = -1
        yield Existing(descriptor, status)


def enter(root: int, path: str, *, can_make: bool) -> int:
    """Open a folder below `root`, making it and those above it (0700) when they are missing and `can_make`.

    Missing when it may not be made; Blocked when something else has one of the names, BlockedByFile when that is a
    regular file; Changed when it kept changing.
    """
    current = os.dup(root)
    entered = ""
    for part in files.parts_of(path):
        try:
            below = drafts.open_or_make_folder(part, current) if can_make else drafts.open_folder(part, current)
        except FileNotFoundError:
            raise Changed if can_make else Missing from None
        except OSError as error:
            if error.errno in HOST_SAYS_NO:
                raise
            words = f"{words_of(error)} ({part})"
            if error.errno == errno.ENOTDIR and drafts.is_file(part, current):
                raise BlockedByFile(words, files.join(entered, part)) from error
            raise Blocked(words) from error
        finally:
            os.close(current)
        current, entered = below, files.join(entered, part)
    return current


def words_of(error: OSError) -> str:
    number = error.errno or 0
    return HOST_SAYS_NO.get(number) or _WORDS.get(number) or files.words_of(error)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "a link is in its place"
    return "a folder is in its place" if stat.S_ISDIR(status.st_mode) else "a special file is in its place"
