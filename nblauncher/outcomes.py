"""What a delivery may come to for one file, and what the ledger remembers of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nblauncher import news
from nblauncher.model import FORGOTTEN, GONE, UNRELATED, HandedOut
from nblauncher.packing import Item

NEW = "new"
UPDATED = "updated"
REPLACED = "replaced by a folder"
MERGED = "merged"
BOTH = "both in one"
AS_IS = "kept as it is"
BESIDE = "put beside"
KEPT = "kept"
DELETED = "deleted by the student"
UNCHANGED = "unchanged"
BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of one item: `detail` is the new file's path for BESIDE and KEPT, the reason for BLOCKED, the number
    of cells that both had changed for BOTH. `reason` says for BESIDE why the two were not merged.
    """

    outcome: str
    path: str
    detail: str = ""
    reason: str = ""
    trusted: str = ""
    """The sha256 of a notebook that stands at `path` and holds outputs of the teacher's only."""
    records: Mapping[str, HandedOut] = field(default_factory=dict)

    def as_row(self) -> list[Any]:
        """For the pipe: `HandedOut(*record[1:])` is what the ledger has to know about `record[0]`."""
        records = [
            [path, one.sha256, one.size, one.mtime_ns, one.inode, one.ctime_ns, one.base]
            for path, one in self.records.items()
        ]
        return [self.path, self.outcome, self.detail, self.reason, self.trusted, records]

    @property
    def news(self) -> str:
        """What the student should know about it, '' for nothing."""
        words = {
            NEW: "new",
            REPLACED: "a folder now",
            UPDATED: "a new version",
            MERGED: "a new version; what you wrote in it is still there",
            BOTH: "a new version; where you had changed the same cell, yours stays and the new one is below it",
            BESIDE: f"{self._kept}; the new version is {news.code(self.detail)}",
        }.get(self.outcome)
        return f"{news.code(self.path)}: {words}" if words else ""

    @property
    def _kept(self) -> str:
        if self.detail.rpartition("/")[0] != self.path.rpartition("/")[0]:
            return "a file of yours has the name of its folder and stays"
        return "you had changed it, so it stays as it is"

    def forgetting(self, paths: Iterable[str]) -> Placed:
        """These were given, and something else has the name now."""
        return replace(self, records={**self.records, **dict.fromkeys(paths, FORGOTTEN)})


def stands(outcome: str, item: Item, status: os.stat_result) -> Placed:
    """The item's version has its name, as `status` says."""
    return Placed(outcome, item.path, trusted=notebook_sha256(item), records={item.path: record(item, status)})


def deleted(item: Item, known: HandedOut | None) -> Placed:
    """The student does not want it. The version counts as given, so that this is said once; what the file was made of
    is remembered, for a student who renames it back or undoes the deletion.
    """
    made_of = known.made_of if known else ""
    return Placed(DELETED, item.path, records={item.path: given(item, GONE + made_of if made_of else UNRELATED)})


def record(item: Item, status: os.stat_result) -> HandedOut:
    return HandedOut(item.sha256, item.size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


def given(item: Item, base: str = "") -> HandedOut:
    """A version that is not under its own name; zero times match no file."""
    return HandedOut(item.sha256, item.size, 0, 0, 0, base)


def notebook_sha256(item: Item) -> str:
    """Of a notebook as the teacher has it; '' for any other file."""
    return item.sha256 if item.path.endswith(".ipynb") else ""
