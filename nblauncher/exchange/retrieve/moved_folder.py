"""An assignment's folder that is not where it was handed out: is it in the home under another name?

Runs as the student. Everything here can be planted, so a folder is taken only if no other could be it too; a doubtful
one is named and not taken. Time and number of folders are bounded.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from nblauncher.errors import HostError
from nblauncher.exchange.retrieve.scope import CACHES, CHECKPOINTS, Sought
from nblauncher.model import HandedOut
from nblauncher.system import files

MOST_FOLDERS = 4000
MOST_NAMES = 20_000
"""Of one folder."""
MOST_CLUES = 200
"""Files by which a folder is recognized."""
MOST_HASHED = 64 << 20
LONGEST = 1.5
"""Seconds: the class may be frozen meanwhile."""

_MOST_DEEP = 12
_MOST_NAMED = 2
_SHOWN = 60
_NOT_ENTERED = frozenset({CHECKPOINTS, "__pycache__", ".git", *CACHES})


@dataclass(frozen=True, slots=True)
class Trace:
    """`path` below the home is what was found, '' when nothing is certain; `words` are for the teacher."""

    words: str
    path: str = ""


@dataclass
class _Search:
    """What was looked at so far."""

    sought: Sought
    home: int
    device: int
    until: float
    folders: int = 0
    hashed: int = 0
    certain: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.folders >= MOST_FOLDERS or time.monotonic() > self.until


def trace(home: int, target: str, sought: Sought) -> Trace:
    """Look for the missing folder `target` in the open home: first beside it, then everywhere."""
    if not sought.files:
        return Trace("there is no such folder, and it was never handed out to this student")
    search = _search(home, target, sought)
    if len(search.certain) == 1:
        return Trace(
            f"it was renamed or moved: found by what was handed out, in {_shown(search.certain)}", search.certain[0]
        )
    if search.certain or search.doubtful:
        found = search.certain or search.doubtful
        return Trace(f"it was handed out and is not there any more; it may be {_shown(found)}: look there")
    bound = f" (of more folders than are searched, {search.folders} were)" if search.is_over else ""
    return Trace(f"it was handed out and is not there any more: deleted, or nothing tells where it is{bound}")


def emptied(home: int, base: int, target: str, sought: Sought) -> str:
    """For a folder that exists: where most of its files are instead, in words; '' when they are in it."""
    clues = _clues(sought)
    here = sum(_is_file(base, path) for path in clues)
    if not clues or 2 * here >= len(clues):
        return ""
    search = _search(home, target, sought)
    # What is below the folder itself is collected with it.
    elsewhere = [path for path in search.certain or search.doubtful if not path.startswith(f"{target}/")]
    return f"most of what was handed out in it may be in {_shown(elsewhere)}: look there" if elsewhere else ""


def _search(home: int, target: str, sought: Sought) -> _Search:
    search = _Search(sought, home, os.fstat(home).st_dev, time.monotonic() + LONGEST)
    seen: set[tuple[int, int]] = set()
    above = target.rpartition("/")[0]
    for start in dict.fromkeys((above, "")):
        for path in _folders(search, start, seen):
            if path not in ("", above, target) and not f"{target}/".startswith(f"{path}/"):
                _judge(search, path)
    return search


def _folders(search: _Search, start: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Folders from `start` on, nearest first; yields each before looking into it."""
    waiting = deque([start])
    while waiting and not search.is_over:
        path = waiting.popleft()
        try:
            folder = files.open_below(search.home, path)
        except (OSError, HostError):
            continue
        try:
            status = os.fstat(folder)
            if status.st_dev != search.device or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            search.folders += 1
            yield path
            if path.count("/") < _MOST_DEEP:
                waiting += _names_below(folder, path)
        except OSError:
            continue
        finally:
            os.close(folder)


def _names_below(folder: int, path: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, MOST_NAMES) if entry.is_dir(follow_symlinks=False)]
    below = [files.join(path, name) for name in sorted(names)[:MOST_FOLDERS]]
    return [path for path in below if path not in _NOT_ENTERED and path.rpartition("/")[2] not in _NOT_ENTERED]


def _judge(search: _Search, path: str) -> None:
    """Certain: half of the files are there by name, and one of them is the same file or has the same content."""
    clues = _clues(search.sought)
    try:
        folder = files.open_below(search.home, path)
    except (OSError, HostError):
        return
    try:
        named = [(name, given) for name, given in clues.items() if _is_file(folder, name)]
        proofs = [_proof(search, folder, name, given) for name, given in named]
    finally:
        os.close(folder)
    is_another = path in search.sought.places or "other" in proofs
    is_ours = "inode" in proofs if is_another else any(proofs)
    if not named or (is_another and not is_ours):
        return
    if is_ours and 2 * len(named) >= len(clues) and not is_another:
        search.certain.append(path)
    elif is_ours or 2 * len(named) >= len(clues):
        search.doubtful.append(path)


def _clues(sought: Sought) -> dict[str, HandedOut]:
    return dict(sorted(sought.files.items())[:MOST_CLUES])


def _is_file(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _proof(search: _Search, folder: int, name: str, given: HandedOut) -> str:
    """`inode`: the file that we wrote; `other`: one of other material; `content`: the same bytes; else nothing."""
    above, _, last = name.rpartition("/")
    with contextlib.ExitStack() as stack:
        try:
            parent = files.open_below(folder, above)
            stack.callback(os.close, parent)
            descriptor, status = files.open_file(last, parent)
            stack.callback(os.close, descriptor)
            if status.st_ino == given.inode and given.inode:
                return "inode"
            if status.st_ino in search.sought.others:
                return "other"
            if status.st_size != given.size or not given.size or search.hashed + given.size > MOST_HASHED:
                return ""
            search.hashed += given.size
            return "content" if files.sha256_of(descriptor, given.size) == given.sha256 else ""
        except (OSError, HostError):
            return ""


def _shown(paths: list[str]) -> str:
    """Shortened: a name that a student chose must not fill a report."""
    named = [f'"{path if len(path) <= _SHOWN else "..." + path[-_SHOWN:]}"' for path in paths[:_MOST_NAMED]]
    more = f" or {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return " or ".join(named) + more
