"""Whether root may import what this interpreter imports: no other account may be able to change it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def objections(executable: Path | None = None, path: Iterable[str] | None = None) -> list[str]:
    """One line for each place that another account than root can change; empty when only root can.

    Checks the interpreter, every folder and archive on sys.path (the targets of .pth files are on it by now), the .pth
    files themselves, and every folder and link above each of them. Without arguments it is the interpreter that runs
    this, otherwise one with the sys.path `path`.
    """
    places = _places(executable or Path(sys.executable), sys.path if path is None else path)
    return list(dict.fromkeys(line for place in places for line in objections_to(place)))


def objections_to(place: Path) -> Iterator[str]:
    """The objections to one file or folder, its link targets, and all folders above them."""
    for step in _chain(place):
        try:
            facts = step.lstat()
        except OSError as error:
            yield f"{step} cannot be checked: {error.strerror}"
            continue
        if facts.st_uid != 0:
            yield f"{step} belongs to uid {facts.st_uid}"
        elif not stat.S_ISLNK(facts.st_mode) and facts.st_mode & 0o022:
            yield f"{step} is writable by accounts other than root"


def _places(executable: Path, path: Iterable[str]) -> Iterator[Path]:
    yield executable
    for entry in path:
        folder = Path(entry or os.curdir)
        if folder.exists():
            yield folder
            if folder.is_dir():
                yield from folder.glob("*.pth")


def _chain(place: Path) -> Iterable[Path]:
    """Every step on the way to it, with links and their targets."""
    found: dict[Path, None] = {}
    waiting = [Path(os.path.abspath(place))]
    while waiting:
        path = waiting.pop()
        for step in reversed([path, *path.parents]):
            if step in found:
                continue
            found[step] = None
            if step.is_symlink():
                waiting.append(Path(os.path.abspath(step.parent / os.readlink(step))))
    return found
