"""How much of a home a retrieval covers, and what the two sides of a retrieval call things."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from nblauncher import files
from nblauncher.model import HandedOut

CHANGED = "changed"
"""Scope: files of the material folder that the student made or changed."""
ALL = "all"
"""Scope: the whole material folder."""
HOME = "home"
"""Scope: the whole home; the material folder goes to `work/`, the rest to `home/`."""

CACHES = (".cache", ".npm", ".local/lib", ".local/share/jupyter/runtime")
"""Folders of a home that hold no work and are left out of HOME; the `%pip` prefix is added by the caller."""

CHECKPOINTS = ".ipynb_checkpoints"
"""Left out of CHANGED, wherever they are; ALL and HOME take them."""

Stamp = tuple[int, int, int, int]
"""Size, mtime, ctime (both in ns) and inode: unchanged as long as nobody wrote to the file."""


@dataclass(frozen=True, slots=True)
class Sought:
    """By what a folder is found again that is not where it was handed out: its files, by path below it."""

    files: Mapping[str, HandedOut] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    """Folders below the home where other material was handed out: none of them is this one under a new name."""
    others: frozenset[int] = frozenset()
    """Inodes of the files of other material: where one of them is, that is another folder under a new name."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a home is collected. `target` is the material folder below the home; so are the paths of `left_out`."""

    kind: str
    target: str
    handed_out: Mapping[str, HandedOut] = field(default_factory=dict)
    left_out: tuple[str, ...] = CACHES
    sought: Sought | None = None
    """Of an assignment, which is looked for when it is not there; then that is incomplete."""

    def store_path(self, path: str) -> str:
        """Where in the store a path goes, which is below the home for HOME and below the target otherwise."""
        if self.kind != HOME:
            return files.join("work", path).rstrip("/")
        if path == self.target or path.startswith(self.target + "/"):
            return "work" + path[len(self.target) :]
        return files.join("home", path).rstrip("/")

    def is_cache(self, entry: files.Entry) -> bool:
        """Whether it is one of the folders that are met but not entered. A file of that name is no cache."""
        if not entry.is_folder:
            return False
        # Jupyter makes a checkpoint of whatever is opened and saved: a copy is no change of the student's.
        return entry.path in self.left_out if self.kind == HOME else self.kind == CHANGED and entry.name == CHECKPOINTS

    def sent(self, store_path: str) -> HandedOut | None:
        """What we had handed out at a path of the store."""
        return self.handed_out.get(store_path[len("work/") :]) if store_path.startswith("work/") else None


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of an earlier retrieval that still stands in the store as it was written."""

    stamp: Stamp
    sha256: str

    @property
    def size(self) -> int:
        return self.stamp[0]


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
