"""Material into one home: what a student still lacks, and the child that puts it there (DESIGN promises 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from nblauncher import files, merging, news, placing
from nblauncher.errors import HostError, RefusedError
from nblauncher.material import Bundle, Index
from nblauncher.model import Account, Exclusion, HandedOut, Work
from nblauncher.outcomes import AS_IS, BESIDE, BLOCKED, BOTH, DELETED, KEPT, MERGED, NEW, REPLACED, UNCHANGED, UPDATED
from nblauncher.packing import Item
from nblauncher.streams import frames_of

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
    "Outcome",
    "deliver",
    "pending",
]

NEWS = news.NAME

_WRITTEN = (NEW, UPDATED, MERGED, BOTH, BESIDE)
_LONGEST = 300.0
_SLOWEST = 1_000_000
"""Bytes a second that even a slow home takes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    NEW, UPDATED, MERGED, BOTH (merged, and cells that both had changed are there twice), BESIDE, AS_IS (it has
    everything already), DELETED (and left so), UNCHANGED or BLOCKED. REPLACED is a file that nobody had touched, by a
    folder of its name. KEPT is the student's own work, saved in the very
    moment of an update, that was put beside it.
    """

    path: str
    outcome: str
    detail: str = ""
    """The path of the copy for BESIDE and KEPT, the number of cells for BOTH, the reason for BLOCKED."""
    reason: str = ""
    """Why it was not merged, for BESIDE."""
    trusted: str = ""
    """The sha256 of a notebook that holds outputs of the teacher's only, '' for anything else."""


@dataclass(frozen=True, slots=True)
class Change:
    """An outcome as the teacher is told it: new, updated, merged, kept, conflict or blocked."""

    path: str
    change: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one student was given. Record `handed_out` in any case, then `check`."""

    outcomes: tuple[Outcome, ...] = ()
    handed_out: Mapping[str, HandedOut] = field(default_factory=dict)
    """By path below the target. Zero times: the version was not put at that name, but counts as given."""
    bytes: int = 0
    failure: str = ""

    def check(self) -> None:
        """HostError when the host said no before everything was delivered, as with a full disk."""
        if self.failure:
            raise HostError(self.failure, "what was delivered stays; run `nblauncher send` again")

    @property
    def changes(self) -> tuple[Change, ...]:
        """Everything but what was unchanged, and the news."""
        return tuple(change for one in self.outcomes if one.path != NEWS and (change := _change(one)))

    @property
    def trusted(self) -> Mapping[str, str]:
        """sha256 by path of the notebooks that may be signed as the student."""
        return {one.path: one.trusted for one in self.outcomes if one.trusted}

    @property
    def work(self) -> Work:
        """Files and bytes written, and everything the teacher should know. Only what was blocked is incomplete."""
        written = [one for one in self.outcomes if one.outcome in _WRITTEN and one.path != NEWS]
        return Work(len(written), self.bytes, tuple(filter(None, map(_exclusion, self.outcomes))))


def pending(
    index: Index, handed_out: Mapping[str, HandedOut], *, restores_deleted: bool = False, only_new: bool = False
) -> tuple[Item, ...]:
    """The items whose present version this student was never given. Pure: nobody's home is looked at.

    With `restores_deleted` also those that may be gone; with `only_new` none of which the student ever had a version,
    nor a folder where it is a file or the other way round.
    """
    folders = {above for path in handed_out for above in files.folders_above(path)} if only_new else set()
    return tuple(
        item
        for item in index.items
        if restores_deleted
        or (known := handed_out.get(item.path)) is None
        or (known.sha256 != item.sha256 and not only_new)
        if not (
            only_new and (item.path in folders or any(above in handed_out for above in files.folders_above(item.path)))
        )
    )


def deliver(
    account: Account,
    target: str,
    items: Iterable[Item],
    bundle: Bundle,
    handed_out: Mapping[str, HandedOut],
    today: date,
    *,
    restores_deleted: bool = False,
    news_time: str = "",
    stall: float = 60.0,
    longest: float | None = None,
) -> Delivery:
    """Put the pending items into `target` below the account's home, as the account.

    Their content comes from the bundle; those it could not read are BLOCKED. `handed_out` is everything the student was
    ever given below the target. `stall` and `longest` are seconds without a sign of life and in all. The target folder
    is made even for no items. With `restores_deleted` a file that was given before and is gone is given once more, and
    one that is there in whatever form stays as it is. `news_time` is the heading of the lines in the student's news;
    '' for no news. Files are on the disk when this returns.

    RefusedError for uid 0. HostError when the home is not the student's folder, or the child was ended by the student
    or by a deadline; a later run finds what it wrote and goes on.
    """
    if account.uid == 0:
        raise RefusedError(f"{account.username} has uid 0; a student's home is never handled by root")
    wanted = tuple(items)
    spooled = tuple(bundle.items[item.path] for item in wanted if item.path in bundle.items)
    order = placing.Order(
        account.home,
        target,
        spooled,
        bundle.offsets,
        bundle.descriptor,
        handed_out,
        today.isoformat(),
        restores_deleted,
        bundle.bases,
        news_time,
    )
    if any(known.made_of and known.sha256 != item.sha256 for item, known in _known(spooled, handed_out)):
        merging.load()  # before the child; where nothing can be merged it would cost more than all the rest
    total = sum(item.size for item in spooled)
    limit = _LONGEST + total / _SLOWEST if longest is None else longest
    outcomes = list(_left_out(wanted, bundle))
    records: dict[str, HandedOut] = {}
    last: Mapping[str, Any] = {}
    for frame in frames_of(account, placing.place, order, keep={bundle.descriptor}, stall=stall, longest=limit):
        last = frame.header
        for *words, rows in frame.header.get("rows", ()):
            outcomes.append(Outcome(*words))
            records.update({row[0]: HandedOut(*row[1:]) for row in rows})
    if last.get("kind") != "finish":
        raise HostError(f"the file worker of {account.username} ended before it was done")
    written = sum(bundle.items[one.path].size for one in outcomes if one.outcome in _WRITTEN and one.path != NEWS)
    return Delivery(tuple(outcomes), records, written, last["failure"])


def _known(items: Iterable[Item], handed_out: Mapping[str, HandedOut]) -> Iterable[tuple[Item, HandedOut]]:
    """The items of which the student had a version."""
    return ((item, handed_out[item.path]) for item in items if item.path in handed_out)


def _left_out(items: Iterable[Item], bundle: Bundle) -> Iterable[Outcome]:
    reasons = {one.path: one.reason for one in bundle.exclusions}
    for item in items:
        if item.path not in bundle.items:
            yield Outcome(item.path, BLOCKED, f"not read from the material: {reasons.get(item.path, 'not asked for')}")


def _change(one: Outcome) -> Change | None:
    change, words = {
        NEW: ("new", ""),
        UPDATED: ("updated", one.detail),
        REPLACED: ("updated", "it is a folder now"),
        MERGED: ("merged", ""),
        BOTH: ("conflict", f"cells that both changed, both are there: {one.detail}"),
        BESIDE: ("conflict", f"{one.reason}; beside it is {one.detail}"),
        KEPT: ("conflict", f"saved while it was updated; what was saved is in {one.detail}"),
        AS_IS: ("kept", "it has everything already"),
        DELETED: ("kept", "deleted by the student and left so"),
        BLOCKED: ("blocked", one.detail),
    }.get(one.outcome, ("", ""))
    return Change(one.path, change, words) if change else None


def _exclusion(one: Outcome) -> Exclusion | None:
    change = _change(one)
    if change is None or (change.change not in ("conflict", "blocked") and one.outcome != DELETED):
        return None
    return Exclusion(one.path, change.detail, incomplete=one.outcome == BLOCKED)
