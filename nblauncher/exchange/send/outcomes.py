"""The outcomes of a delivery for one file, and what the ledger remembers of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nblauncher.exchange import rows
from nblauncher.exchange.rows import Row
from nblauncher.exchange.send import news
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.model import FORGOTTEN, GONE, UNRELATED, HandedOut

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

_OUTCOMES = frozenset({NEW, UPDATED, REPLACED, MERGED, BOTH, AS_IS, BESIDE, KEPT, DELETED, UNCHANGED, BLOCKED})
_BASE = re.compile(f"|{UNRELATED}|({GONE})?[0-9a-f]{{64}}")


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of one file.

    NEW, UPDATED, MERGED, BOTH (merged; cells that both had changed are there twice), BESIDE, AS_IS (nothing to add),
    DELETED (and left so), UNCHANGED or BLOCKED. REPLACED: a folder took the place of an untouched file. KEPT: the
    student saved the file during its update; that work is now beside it.
    """

    outcome: str
    path: str
    detail: str = ""
    """The path of the copy for BESIDE and KEPT, the number of cells for BOTH, the reason for BLOCKED."""
    reason: str = ""
    """Why it was not merged, for BESIDE."""
    trusted: str = ""
    """The sha256 of a notebook at `path` that holds only the teacher's outputs; '' for anything else."""
    records: Mapping[str, HandedOut] = field(default_factory=dict)
    """By path: what the ledger has to know."""

    def to_row(self) -> Row:
        return {
            "outcome": self.outcome,
            "path": self.path,
            "detail": self.detail,
            "reason": self.reason,
            "trusted": self.trusted,
            "records": [_record_row(path, known) for path, known in self.records.items() if known != FORGOTTEN],
            "forgotten": [{"path": path} for path, known in self.records.items() if known == FORGOTTEN],
        }

    @classmethod
    def from_row(cls, row: Row) -> Placed:
        """HostError unless `to_row` could have made it."""
        outcome = rows.text(row, "outcome")
        if outcome not in _OUTCOMES:
            raise rows.malformed("an unknown outcome")
        records = dict(_record_from(record) for record in rows.objects(row.get("records")))
        forgotten = {rows.utf8_path(entry, "path"): FORGOTTEN for entry in rows.objects(row.get("forgotten"))}
        return cls(
            outcome,
            rows.path(row, "path"),
            rows.text(row, "detail"),
            rows.text(row, "reason"),
            rows.sha256_or_empty(row, "trusted"),
            records | forgotten,
        )

    @property
    def news(self) -> str:
        """The line in the student's news, '' for none."""
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
        """These paths were given, and something else has the name now."""
        return replace(self, records={**self.records, **dict.fromkeys(paths, FORGOTTEN)})


def in_place(outcome: str, item: Item, status: os.stat_result) -> Placed:
    """The item's version has its name; `status` is that file's."""
    return Placed(outcome, item.path, trusted=notebook_sha256(item), records={item.path: record(item, status)})


def deleted(item: Item, known: HandedOut | None) -> Placed:
    """The student deleted it. The version counts as given, so that this is reported once. What the file was made of is
    remembered, in case the student restores it.
    """
    made_of = known.made_of if known else ""
    return Placed(DELETED, item.path, records={item.path: given(item, GONE + made_of if made_of else UNRELATED)})


def _record_row(path: str, known: HandedOut) -> Row:
    return {
        "path": path,
        "sha256": known.sha256,
        "size": known.size,
        "mtime_ns": known.mtime_ns,
        "inode": known.inode,
        "ctime_ns": known.ctime_ns,
        "base": known.base,
    }


def _record_from(row: Row) -> tuple[str, HandedOut]:
    base = rows.text(row, "base")
    if not _BASE.fullmatch(base):
        raise rows.malformed("base is not a version")
    return rows.utf8_path(row, "path"), HandedOut(
        sha256=rows.sha256_or_empty(row, "sha256"),
        size=rows.size(row, "size"),
        mtime_ns=rows.whole_number(row, "mtime_ns"),
        inode=rows.size(row, "inode"),
        ctime_ns=rows.whole_number(row, "ctime_ns"),
        base=base,
    )


def record(item: Item, status: os.stat_result) -> HandedOut:
    return HandedOut(item.sha256, item.size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


def given(item: Item, base: str = "") -> HandedOut:
    """A version that does not have its own name; zero times match no file."""
    return HandedOut(item.sha256, item.size, 0, 0, 0, base)


def notebook_sha256(item: Item) -> str:
    """The sha256 of the teacher's notebook; '' for any other file."""
    return item.sha256 if item.path.endswith(".ipynb") else ""
