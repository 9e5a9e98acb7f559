"""How much of a home a retrieval covers, and the words that both of its sides use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nblauncher.model import HandedOut
from nblauncher.system import files

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


@dataclass(frozen=True, slots=True)
class Sought:
    """How to recognize a folder that is not where it was handed out: its files, by path below it."""

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
    """For an assignment: it is looked for when it is missing, and is then incomplete."""

    def store_path(self, path: str) -> str:
        """Where a path goes in the store; it is below the home for HOME, else below the target."""
        if self.kind != HOME:
            return files.join("work", path).rstrip("/")
        if path == self.target or path.startswith(self.target + "/"):
            return "work" + path[len(self.target) :]
        return files.join("home", path).rstrip("/")

    def is_cache(self, entry: files.Entry) -> bool:
        """Whether it is a folder that is not entered. A file of that name is not a cache."""
        if not entry.is_folder:
            return False
        # Jupyter makes a checkpoint of every file that is saved: a copy is not the student's change.
        return entry.path in self.left_out if self.kind == HOME else self.kind == CHANGED and entry.name == CHECKPOINTS

    def sent(self, store_path: str) -> HandedOut | None:
        """What was handed out at a path of the store."""
        return self.handed_out.get(store_path[len("work/") :]) if store_path.startswith("work/") else None
