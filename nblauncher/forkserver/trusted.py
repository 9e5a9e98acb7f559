"""Whether root may import from where this interpreter imports: nobody else may be able to change what is there."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def objections(executable: Path | None = None, path: Iterable[str] | None = None) -> list[str]:
    """One line for each place that somebody else than root can change; empty when everything is root's.

    Looked at are the interpreter, every folder and archive on sys.path (the targets of .pth files are on it by now),
    the .pth files themselves, and every folder and link above each of them. Without arguments it is the interpreter
    that runs this, else one whose sys.path is `path`.
    """
    places = _places(executable or Path(sys.executable), sys.path if path is None else path)
    return list(dict.fromkeys(line for place in places for line in objections_to(place)))


def objections_to(place: Path) -> Iterator[str]:
    """About one file or folder, what it is a link to, and everything above."""
    for one in _chain(place):
        try:
            facts = one.lstat()
        except OSError as error:
            yield f"{one} cannot be looked at: {error.strerror}"
            continue
        if facts.st_uid != 0:
            yield f"{one} belongs to uid {facts.st_uid}"
        elif not stat.S_ISLNK(facts.st_mode) and facts.st_mode & 0o022:
            yield f"{one} can be written by others than root"


def _places(executable: Path, path: Iterable[str]) -> Iterator[Path]:
    yield executable
    for entry in path:
        folder = Path(entry or os.curdir)
        if folder.exists():
            yield folder
            if folder.is_dir():
                yield from folder.glob("*.pth")


def _chain(place: Path) -> Iterable[Path]:
    """Every step on the way to it, links and where they lead included."""
    found: dict[Path, None] = {}
    waiting = [Path(os.path.abspath(place))]
    while waiting:
        path = waiting.pop()
        for one in reversed([path, *path.parents]):
            if one in found:
                continue
            found[one] = None
            if one.is_symlink():
                waiting.append(Path(os.path.abspath(one.parent / os.readlink(one))))
    return found
