"""Folders that should hold known contents only: whether they do, and how those are deleted.

Runs as the student. Nothing here follows a link, enters a mount, or deletes an unknown content.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping

from nblauncher.system import drafts, files
from nblauncher.system.leases import Hold, hold

Content = tuple[str, int]
"""sha256 and size."""

_MOST_NAMES = 20_000
_MOST_LEVELS = 64


def is_untouched(folder: int, given: Mapping[str, Content], tick: Callable[[], None], above: str = "") -> bool:
    """Whether everything below is a file that was given there, unchanged and not open for writing.

    `given` is by path below the folder. A given file may be gone.
    """
    if os.fstat(folder).st_uid != os.geteuid():
        return False
    for name in files.names_of(folder, _MOST_NAMES):
        path = files.join(above, name)
        with _looked_at(name, folder) as (status, descriptor):
            if stat.S_ISDIR(status.st_mode):
                leads_on = any(one.startswith(f"{path}/") for one in given)
                if not leads_on or not _is_untouched_below(name, folder, given, tick, path):
                    return False
            elif path not in given or not _has(descriptor, {given[path]}, tick):
                return False
    return True


def empty(folder: int, ours: Collection[Content], tick: Callable[[], None], level: int = 0) -> None:
    """Delete files with one of these contents and no writer, then the empty folders. What cannot be deleted stays."""
    for name in files.names_of(folder, _MOST_NAMES):
        with contextlib.suppress(OSError), _looked_at(name, folder) as (status, descriptor):
            if stat.S_ISDIR(status.st_mode) and level < _MOST_LEVELS:
                below = drafts.open_folder(name, folder)
                try:
                    empty(below, ours, tick, level + 1)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=folder)
            elif _has(descriptor, ours, tick):
                os.unlink(name, dir_fd=folder)


def _is_untouched_below(
    name: str, folder: int, given: Mapping[str, Content], tick: Callable[[], None], path: str
) -> bool:
    below = drafts.open_folder(name, folder)
    try:
        return is_untouched(below, given, tick, path)
    finally:
        os.close(below)


def _has(descriptor: int, ours: Collection[Content], tick: Callable[[], None]) -> bool:
    """Whether a file has one of these contents, still has it after reading, and has no writer, nor one that waits."""
    if descriptor < 0:
        return False
    status = os.fstat(descriptor)
    held = hold(descriptor)
    if held is Hold.REFUSED or status.st_size not in {size for _sha256, size in ours}:
        return False
    is_ours = (files.sha256_of(descriptor, status.st_size, tick), status.st_size) in ours
    is_still_held = held is Hold.UNSUPPORTED or fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
    after = os.fstat(descriptor)
    return is_ours and is_still_held and (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def _looked_at(name: str, folder: int) -> Iterator[tuple[os.stat_result, int]]:
    """The status of what has the name, and a descriptor when it is our own readable file, else -1."""
    handle, status = drafts.open_any(name, folder)
    descriptor = -1
    try:
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            with contextlib.suppress(PermissionError):
                descriptor = drafts.read_handle(handle)
        yield status, descriptor
    finally:
        os.close(handle)
        if descriptor >= 0:
            os.close(descriptor)
