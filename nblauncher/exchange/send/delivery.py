"""Material for one home: what is missing, and the child that puts it there (docs/security.md, promises 2 and 3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.exchange import merge, rows
from nblauncher.exchange.names import folders_above
from nblauncher.exchange.send import news, student_side
from nblauncher.exchange.send.material import Bundle, Index
from nblauncher.exchange.send.outcomes import (
    AS_IS,
    BESIDE,
    BLOCKED,
    BOTH,
    DELETED,
    KEPT,
    MERGED,
    NEW,
    REPLACED,
    UNCHANGED,
    UPDATED,
    Placed,
)
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.exchange.students import student
from nblauncher.model import Account, Exclusion, HandedOut, Work
from nblauncher.system.streams import frames_of
from nblauncher.system.workers import Frame

__all__ = [
    "AS_IS",
    "BESIDE",
    "BLOCKED",
    "BOTH",
    "DELETED",
    "KEPT",
    "MERGED",
    "NEW",
    "NEWS",
    "REPLACED",
    "UNCHANGED",
    "UPDATED",
    "Change",
    "Delivery",
    "Placed",
    "Shipment",
    "deliver",
    "delivery_of",
    "pending",
]

NEWS = news.NAME

_WRITTEN = (NEW, UPDATED, MERGED, BOTH, BESIDE)
_LONGEST = 300.0
_SLOWEST = 1_000_000
"""Bytes a second that even a slow home takes."""
_MOST_OTHERS = 100_000
"""Reports beyond one for each item and each file that was given before, such as copies of the student's work."""


@dataclass(frozen=True, slots=True)
class Change:
    """An outcome for the teacher: new, updated, merged, kept, conflict or blocked."""

    path: str
    change: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one student was given. Record `handed_out` in any case, then `check`."""

    outcomes: tuple[Placed, ...] = ()
    bytes: int = 0
    failure: str = ""

    @property
    def handed_out(self) -> Mapping[str, HandedOut]:
        """By path below the target. Zero times: the version was not put at that name, but counts as given."""
        return {path: record for placed in self.outcomes for path, record in placed.records.items()}

    def check(self) -> None:
        """HostError when the host failed before everything was delivered, for example with a full disk."""
        if self.failure:
            raise HostError(self.failure, "what was delivered stays; run `nblauncher send` again")

    @property
    def changes(self) -> tuple[Change, ...]:
        """Everything but what was unchanged, and the news."""
        return tuple(change for placed in self.outcomes if placed.path != NEWS and (change := _change(placed)))

    @property
    def trusted(self) -> Mapping[str, str]:
        """sha256 by path of the notebooks that may be signed as the student."""
        return {placed.path: placed.trusted for placed in self.outcomes if placed.trusted}

    @property
    def work(self) -> Work:
        """Files and bytes written, and everything the teacher should know. Only what was blocked is incomplete."""
        written = [placed for placed in self.outcomes if placed.outcome in _WRITTEN and placed.path != NEWS]
        return Work(len(written), self.bytes, tuple(filter(None, map(_exclusion, self.outcomes))))


def pending(
    index: Index, handed_out: Mapping[str, HandedOut], *, restores_deleted: bool = False, only_new: bool = False
) -> tuple[Item, ...]:
    """The items whose present version this student was never given. Pure: looks into no home.

    `restores_deleted`: also those that may be gone. `only_new`: only those of which the student never had a version,
    nor a file or folder in their place.
    """
    folders = {above for path in handed_out for above in folders_above(path)} if only_new else set()
    return tuple(
        item
        for item in index.items
        if restores_deleted
        or (known := handed_out.get(item.path)) is None
        or (known.sha256 != item.sha256 and not only_new)
        if not (only_new and (item.path in folders or any(above in handed_out for above in folders_above(item.path))))
    )


@dataclass(frozen=True, slots=True)
class Shipment:
    """What goes into one home: items, and the bundle that holds their content.

    `handed_out` is everything that the student was ever given below `target`.
    """

    target: str
    """The folder, below the home."""
    items: tuple[Item, ...]
    bundle: Bundle
    handed_out: Mapping[str, HandedOut]
    today: date
    restores_deleted: bool = False
    """A file that was given before and is gone is given once more; one that is there stays as it is."""
    news_time: str = ""
    """The heading of the lines in the student's news; '' for no news."""
    lines: tuple[str, ...] = ()
    """News besides that of the items."""

    @property
    def spooled(self) -> tuple[Item, ...]:
        """The items that the bundle holds."""
        return tuple(self.bundle.items[item.path] for item in self.items if item.path in self.bundle.items)

    @property
    def is_merged(self) -> bool:
        """Whether a file may have to be merged."""
        given = ((item, self.handed_out.get(item.path)) for item in self.spooled)
        return any(known and known.made_of and known.sha256 != item.sha256 for item, known in given)

    def left_out(self) -> Iterable[Placed]:
        """What the bundle could not read."""
        reasons = {exclusion.path: exclusion.reason for exclusion in self.bundle.exclusions}
        for item in self.items:
            if item.path not in self.bundle.items:
                reason = reasons.get(item.path, "not asked for")
                yield Placed(BLOCKED, item.path, f"not read from the material: {reason}")

    def order(self, home: Path) -> student_side.Order:
        return student_side.Order(
            home=home,
            target=self.target,
            items=self.spooled,
            offsets=self.bundle.offsets,
            spool=self.bundle.descriptor,
            handed_out=self.handed_out,
            day=self.today.isoformat(),
            restores_deleted=self.restores_deleted,
            bases=self.bundle.bases,
            news_time=self.news_time,
            lines=self.lines,
        )


def deliver(account: Account, shipment: Shipment, *, stall: float = 60.0, longest: float | None = None) -> Delivery:
    """Put the items into the account's home, as the account. Files are on the disk when this returns.

    `stall` and `longest` are seconds without a sign of life and in all. The target folder is made even for no items.
    RefusedError for uid 0. HostError when the home is not the student's folder, or the child was ended by the student
    or by a deadline, or its report is malformed; a later run finds what it wrote and goes on.
    """
    student(account)
    if shipment.is_merged:
        merge.load()  # before the fork: loading it in each child would cost more than the delivery
    if longest is None:
        longest = _LONGEST + sum(item.size for item in shipment.spooled) / _SLOWEST
    order, keep = shipment.order(account.home), {shipment.bundle.descriptor}
    frames = frames_of(account, student_side.place, order, keep=keep, stall=stall, longest=longest)
    with contextlib.closing(frames):  # ends the child when its report is malformed
        return delivery_of(frames, shipment, account.username)


def delivery_of(frames: Iterable[Frame], shipment: Shipment, username: str) -> Delivery:
    """What the student's child reports. HostError unless it is well-formed and complete: the student may forge it."""
    outcomes = list(shipment.left_out())
    most = len(shipment.items) + 2 * len(shipment.handed_out) + _MOST_OTHERS
    failure = None
    for frame in frames:
        if failure is not None:
            raise rows.malformed("it goes on after its end")
        if frame.header.get("kind") == "finish":
            failure = rows.text(frame.header, "failure")
            continue
        for row in rows.objects(frame.header.get("rows")):
            outcomes.append(Placed.from_row(row))
            most -= 1 + len(outcomes[-1].records)
            if most < 0:
                raise rows.malformed("too many files")
    if failure is None:
        raise HostError(f"the file worker of {username} ended before it was done")
    return Delivery(tuple(outcomes), sum(_size(placed, shipment.bundle) for placed in outcomes), failure)


def _size(placed: Placed, bundle: Bundle) -> int:
    """Bytes written."""
    if placed.outcome not in _WRITTEN or placed.path == NEWS:
        return 0
    if placed.path not in bundle.items:
        raise rows.malformed("a file that was not sent")
    return bundle.items[placed.path].size


def _change(placed: Placed) -> Change | None:
    change, words = {
        NEW: ("new", ""),
        UPDATED: ("updated", placed.detail),
        REPLACED: ("updated", "it is a folder now"),
        MERGED: ("merged", ""),
        BOTH: ("conflict", f"cells that both changed, both are there: {placed.detail}"),
        BESIDE: ("conflict", f"{placed.reason}; beside it is {placed.detail}"),
        KEPT: ("conflict", f"saved while it was updated; what was saved is in {placed.detail}"),
        AS_IS: ("kept", "it has everything already"),
        DELETED: ("kept", "deleted by the student and left so"),
        BLOCKED: ("blocked", placed.detail),
    }.get(placed.outcome, ("", ""))
    return Change(placed.path, change, words) if change else None


def _exclusion(placed: Placed) -> Exclusion | None:
    change = _change(placed)
    if change is None or (change.change not in ("conflict", "blocked") and placed.outcome != DELETED):
        return None
    return Exclusion(placed.path, change.detail, incomplete=placed.outcome == BLOCKED)
