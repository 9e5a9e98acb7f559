"""Doors: walk and open below a folder, by descriptors, as the account that the calling process has.

Nothing here follows a symlink, waits at a FIFO, crosses into a mount or recurses. A name is always looked up in an open
folder (openat(2)), and a folder that was closed on the way down is opened again only when it is still the same
device and inode. So a tree that changes while it is walked can hide entries, but never lead out of itself.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from nblauncher.errors import HostError

CHUNK = 1 << 20
"""Bytes read at a time."""
OTHER_DEVICE = "is on another file system"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KEPT_OPEN = 48
_LONGEST_PATH = 4000
"""Bytes; Linux's own limit for a path that a program may open is 4,096 (PATH_MAX)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that a walk found. `folder` stays open until the next entry; `status` is lstat's."""

    path: str
    """Below the folder the walk began in, separated by `/`; empty for that folder itself."""
    name: str
    folder: int
    status: os.stat_result | None
    obstacle: str = ""
    """Why the walk could not look here."""

    @property
    def is_folder(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return self.status is not None and stat.S_ISREG(self.status.st_mode)


def open_folder(name: str | bytes | os.PathLike[str], folder: int | None = None) -> int:
    """Open a folder, but not through a symlink of that name. OSError as of openat(2)."""
    return os.open(name, _FOLDER, dir_fd=folder)


def open_below(folder: int, path: str) -> int:
    """Open the folder `path` below `folder`, none of whose components may be a symlink. OSError as of openat(2)."""
    current = os.dup(folder)
    for part in parts_of(path):
        try:
            below = open_folder(part, current)
        finally:
            os.close(current)
        current = below
    return current


def open_file(name: str, folder: int) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; also returns its status. OSError as of openat(2); ELOOP for any other kind."""
    descriptor = os.open(name, _FILE, dir_fd=folder)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return descriptor, status


def parts_of(path: str, *, max_depth: int | None = None) -> tuple[str, ...]:
    """The components of a relative path; HostError when it could leave its folder. Empty for ''."""
    if path == "":
        return ()
    parts = tuple(path.split("/"))
    try:
        is_path = not any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts)
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can hold one, a file name cannot
        is_path = False
    if "\0" in path or not is_path:
        raise HostError(f"{path[:80]!r} is not a path below a folder")
    if max_depth is not None and len(parts) > max_depth:
        raise HostError(f"{path[:80]!r}... is more than {max_depth} levels deep")
    return parts


def chunks(descriptor: int, size: int) -> Iterator[bytes]:
    """The file's bytes up to `size`; fewer when it ends before."""
    while size > 0 and (data := os.read(descriptor, min(size, CHUNK))):
        size -= len(data)
        yield data


def sha256_of(descriptor: int, size: int, tick: Callable[[], None] = lambda: None) -> str:
    """Hex digest of the next `size` bytes; `tick` is called after each chunk."""
    digest = hashlib.sha256()
    for data in chunks(descriptor, size):
        digest.update(data)
        tick()
    return digest.hexdigest()


def is_sparse(descriptor: int, status: os.stat_result) -> bool:
    """Whether the file claims more bytes than it occupies because of holes (lseek(2) SEEK_HOLE), not compression."""
    if status.st_blocks * 512 >= status.st_size:
        return False
    hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return hole < status.st_size


def walk(
    root: int,
    *,
    max_depth: int,
    max_entries: int,
    is_left_out: Callable[[Entry], bool] = lambda _entry: False,
) -> Iterator[Entry]:
    """Every entry below the open folder `root`, sorted within each folder, folders before what is in them.

    Mounts, folders below `max_depth` levels, folders that cannot be listed, and the first entry beyond `max_entries`
    come with an `obstacle`. Folders for which `is_left_out` is true are listed but not entered. Holds at most about 50
    descriptors open at any depth.
    """
    trail = Trail(root)
    try:
        remaining = max_entries
        trail.levels[0].names = names_of(root, remaining + 1)
        while trail.levels:
            level = trail.levels[-1]
            if not level.names:
                lost = trail.leave()
                if lost is not None:
                    yield Entry(lost.path, lost.name, root, None, "was moved while it was read")
                continue
            if remaining == 0:
                yield Entry(level.path, "", level.descriptor, None, f"more than {max_entries} entries")
                return
            remaining -= 1
            name = level.names.pop()
            entry = _look(level, name, trail.device)
            if entry.status and entry.is_folder and not entry.obstacle and not is_left_out(entry):
                if len(trail.levels) >= max_depth:
                    obstacle = f"more than {max_depth} levels deep"
                elif len(os.fsencode(entry.path)) > _LONGEST_PATH:
                    obstacle = f"a path of more than {_LONGEST_PATH} bytes"
                else:
                    obstacle = _enter(trail, name, entry.status, remaining + 1)
                entry = replace(entry, obstacle=obstacle)
            yield entry
    finally:
        trail.close()


@dataclass(slots=True)
class Level:
    """A folder on the way down. `descriptor` is -1 while it is closed."""

    path: str
    """Cut off at the longest possible path: a hostile depth must not cost its square in memory."""
    name: str
    descriptor: int
    identity: tuple[int, int]
    is_deletable: bool = False
    names: list[str] = field(default_factory=list)
    stuck: set[str] = field(default_factory=set)
    has_left: bool = False


class Trail:
    """The folders from a root down to the walk's position; at most `_KEPT_OPEN` of them and the root are open."""

    def __init__(self, root: int) -> None:
        status = os.fstat(root)
        self.device = status.st_dev
        self.levels = [Level("", "", root, (status.st_dev, status.st_ino))]
        self._root = root

    def enter(self, name: str, status: os.stat_result) -> Level:
        """Open the folder `name` in the last level; OSError when it is no longer the one that lstat described."""
        above = self.levels[-1]
        path = join(above.path, name) if len(above.path) <= _LONGEST_PATH else above.path
        level = Level(path, name, -1, (status.st_dev, status.st_ino))
        self._open(above, level, name)
        self.levels.append(level)
        if len(self.levels) > _KEPT_OPEN + 1:
            self._close(self.levels[-_KEPT_OPEN - 1])
        return level

    def leave(self) -> Level | None:
        """Forget the last level. Returns a level that could not be opened again and is lost, with those below it."""
        left = self.levels.pop()
        if self.levels:
            # Fails if the folder we leave is not searchable or was moved; then we go down from the root again.
            with contextlib.suppress(OSError):
                self._open(left, self.levels[-1], "..")
        self._close(left)
        return self._open_again() if self.levels else None

    def close(self) -> None:
        while self.levels:
            self._close(self.levels.pop())

    def _open_again(self) -> Level | None:
        if self.levels[-1].descriptor >= 0:
            return None
        depth = len(self.levels)
        for index in range(1, depth):
            above, level = self.levels[index - 1], self.levels[index]
            try:
                self._open(above, level, level.name)
            except OSError:
                for lost in self.levels[index:]:
                    self._close(lost)
                del self.levels[index:]
                return level
            if index < depth - _KEPT_OPEN:
                self._close(above)
        return None

    def _open(self, start: Level, level: Level, name: str) -> None:
        if level.descriptor >= 0:
            return
        descriptor = open_folder(name, start.descriptor)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != level.identity:
            os.close(descriptor)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        level.descriptor = descriptor

    def _close(self, level: Level) -> None:
        if level.descriptor >= 0 and level.descriptor != self._root:
            os.close(level.descriptor)
            level.descriptor = -1


def _look(level: Level, name: str, device: int) -> Entry:
    path = join(level.path, name)
    try:
        status = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False)
    except OSError as error:
        return Entry(path, name, level.descriptor, None, words_of(error))
    return Entry(path, name, level.descriptor, status, "" if status.st_dev == device else OTHER_DEVICE)


def _enter(trail: Trail, name: str, status: os.stat_result, limit: int) -> str:
    """Enter a folder and list it; returns the obstacle, or an empty string."""
    try:
        level = trail.enter(name, status)
    except OSError as error:
        return words_of(error)
    try:
        level.names = names_of(level.descriptor, limit)
    except OSError as error:
        trail.leave()
        return words_of(error)
    return ""


def names_of(descriptor: int, limit: int, but: Collection[str] = ()) -> list[str]:
    """Up to `limit` names of an open folder, in reverse order for `pop`."""
    with os.scandir(descriptor) as entries:
        names = list(islice((entry.name for entry in entries if entry.name not in but), limit))
    names.sort(reverse=True)
    return names


def join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def words_of(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENOTDIR):
        return "changed while it was read"
    return os.strerror(error.errno).lower() if error.errno else str(error)
