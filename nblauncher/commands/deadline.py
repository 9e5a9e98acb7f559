"""What happens at a deadline: first copies, everybody stands still, what changed is copied, everybody goes on.

Then the work goes into the teacher's store, and a signed receipt into each home. `next_task` says what is to be done
now, from the ledger as it is now: a command that waits holds no plan and no lock, and a moment that was put off,
cancelled or added meanwhile is one like any other. Each task finds what the one before left, so that after a kill the
next run goes on; what was captured is never captured again.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum

from nblauncher import accommodations, deadlines, moments
from nblauncher.commands import copies, folders
from nblauncher.commands.capturing import CaptureAll, EarlyCopy, is_captured
from nblauncher.commands.copies import Round
from nblauncher.commands.pending import everybodys, pending, students_of
from nblauncher.commands.publishing import ClearAway, GiveReceipt, PublishCapture
from nblauncher.commands.retrieve import AT_ONCE
from nblauncher.deadlines import Moment
from nblauncher.errors import InputError
from nblauncher.host import Host
from nblauncher.model import Deadline
from nblauncher.plan import Phase, Plan
from nblauncher.printable import printable

LEAD = timedelta(seconds=360)
"""How long before its moment work is copied for the first time."""

LAST_COPY = timedelta(seconds=15)
"""So long before the moment what changed meanwhile is copied once more."""

READY = timedelta(seconds=3)
"""So long before the moment everything else is left alone: we wait for it under the lock."""

_NO_HURRY = timedelta(seconds=30)
"""What can wait (the way into the store, a moment that was missed) does, while a moment is nearer than this."""

_LONGEST_COPIES = timedelta(seconds=30)
"""After so long we look what else there is to do; a deadline may have been set meanwhile."""
_LONGEST_LATE = timedelta(seconds=60)
"""For a moment that is past anyway: who has much must not keep the class waiting for it."""
_RETRY = 60.0


class Kind(str, Enum):
    """What is to be done now."""

    COPY = "copy"
    CAPTURE = "capture"
    PUBLISH = "publish"
    WAIT = "wait"


@dataclass(frozen=True)
class Task:
    """`round`: for whom; of a `WAIT` those for whom it is too early. A `COPY` has to end at `until`."""

    kind: Kind
    round: Round
    until: datetime | None = None
    is_last_copy: bool = False


_Id = tuple[str, str, datetime]


@dataclass
class Seen:
    """What one command has tried so far."""

    copied: set[tuple[_Id, bool]] = field(default_factory=set)
    """With whether it was the last copy."""
    tried: dict[_Id, float] = field(default_factory=dict)
    """What failed, and when, on the monotonic clock."""
    rounds: dict[datetime, Round] = field(default_factory=dict)

    def had_their_turn(self, found: Iterable[Moment], *, is_last: bool) -> None:
        self.copied |= {(copies.moment_id(one), is_last) for one in found}

    def failed(self, found: Iterable[Moment]) -> None:
        self.tried |= {copies.moment_id(one): time.monotonic() for one in found}

    def may_be_tried(self, moment: Moment) -> bool:
        last = self.tried.get(copies.moment_id(moment))
        return last is None or time.monotonic() - last > _RETRY

    def round_of(self, found: Sequence[Moment]) -> Round:
        """These, with what is known about the round of their time."""
        known = self.rounds.setdefault(found[0].at, Round(found[0].at, ()))
        known.moments = tuple(found)
        return known


def next_task(host: Host, seen: Seen, now: datetime, only: str = "") -> Task | None:
    """The most urgent of what is to be done for moments that are near or past, or, for `only` one deadline, ever.

    None: nothing is left that was not tried.
    """
    found = [one for one in pending(host)[0] if only in ("", one.deadline.name) and seen.may_be_tried(one)]
    stored = copies.stored(host)
    taken = [one for one in found if one.at <= now + READY and _is_taken(host, one, stored)]
    open_ones = [one for one in found if one not in taken and (only or one.at <= now + LEAD)]
    in_time = [one for one in open_ones if one.at >= now - copies.LATE_AFTER]
    if in_time and in_time[0].at <= now + READY:
        return Task(Kind.CAPTURE, seen.round_of(_same_time(in_time)))
    nearest = in_time[0].at - READY if in_time else now + _LONGEST_LATE
    if nearest > now + _NO_HURRY - READY:
        if taken:
            return Task(Kind.PUBLISH, seen.round_of(_same_time(taken)))
        missed = [one for one in open_ones if one not in in_time]
        if uncopied := [one for one in missed if (copies.moment_id(one), False) not in seen.copied]:
            return Task(Kind.COPY, Round(uncopied[0].at, _same_time(uncopied)), min(nearest, now + _LONGEST_LATE))
        if missed:
            return Task(Kind.CAPTURE, seen.round_of(_same_time(missed)))
    for is_last, lead in ((True, LAST_COPY), (False, LEAD)):
        early = [one for one in in_time if READY < one.at - now <= lead]
        if uncopied := [one for one in early if (copies.moment_id(one), is_last) not in seen.copied]:
            until = min(nearest, now + _LONGEST_COPIES)
            return Task(Kind.COPY, Round(uncopied[0].at, _same_time(uncopied)), until, is_last_copy=is_last)
    waiting = tuple(open_ones or taken)
    return Task(Kind.WAIT, Round(waiting[0].at, waiting)) if waiting else None


def left_of(host: Host, task: Task) -> list[Moment]:
    """Of a task that was carried out: those with whom it came to nothing."""
    ids = {copies.moment_id(one) for one in task.round.moments}
    left = [one for one in pending(host)[0] if copies.moment_id(one) in ids]
    return [one for one in left if task.kind is Kind.PUBLISH or not is_captured(host, one)]


def is_on_its_way(host: Host, one: Round) -> bool:
    """Whether somebody's work was captured in this round and is to be put into the store."""
    return any(is_captured(host, moment) for moment in one.moments)


def plan(host: Host, task: Task) -> Plan:
    """The steps of a task, for those of whom it is still wanted: another command may have been quicker."""
    found, problems = pending(host)
    current = {copies.moment_id(one) for one in found}
    there = tuple(one for one in task.round.moments if copies.moment_id(one) in current)
    if not there:
        return Plan()
    if task.kind is Kind.COPY and task.until is not None:
        steps = tuple(EarlyCopy(moment, task.until) for moment in there)
        return Plan((Phase("a first copy", steps, parallel=AT_ONCE),))
    if task.kind is Kind.CAPTURE:
        names = tuple(dict.fromkeys(moment.username for moment in there))
        return Plan((Phase("the moment", (CaptureAll(task.round, names),)),), tuple(problems))
    by_deadline: dict[Deadline, list[str]] = {}
    for moment in there:
        by_deadline.setdefault(moment.deadline, []).append(moment.username)
    return Plan(
        (
            Phase("publish", tuple(PublishCapture(task.round, each, tuple(who)) for each, who in by_deadline.items())),
            Phase("receipts", tuple(GiveReceipt(moment) for moment in there), parallel=AT_ONCE),
            Phase("clear", (ClearAway(),)),
        )
    )


def summary(host: Host, one: Round) -> str:
    """Where the work is, how long everybody stood still and who was captured late, in words."""
    if not one.folders:
        return "retrieve: nothing was captured."
    ids = {copies.moment_id(moment) for moment in one.moments}
    found = [each for key, each in copies.stored(host).items() if key in ids]
    late = sum(each.captured - each.at > copies.LATE_AFTER for each in found)
    where = ", ".join(str(host.settings.retrieve.target / folder) for folder in one.folders.values())
    stood = f"; everybody stood still for {one.pause:.2f} s" if one.pause else ""
    if not late:
        return f"The work as it was at {moments.words(one.at)} is in {where}{stood}"
    return (
        f"The work for {moments.words(one.at)} is in {where}{stood}. It is LATE, as it was when it was captured, for "
        f"{late} of {len(one.moments)}"
    )


def add(host: Host, at: datetime, folder: str, now: datetime) -> Deadline:
    """A deadline of `retrieve --at`; an earlier one of the folder is replaced. InputError when it is past."""
    if at <= now:
        raise InputError(f"{moments.words(at)} is past", "Without --at the work is retrieved as it is now.")
    folder = folders.meant(host, folder, "--assignment").folder if folder else ""
    found = Deadline(folder or f"at {at.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", folder, at)
    if any(one.name == found.name for one in host.settings.deadlines):
        raise InputError(f"the config has a deadline for {found.name} already", "Change it there, and run `reload`.")
    if not host.ledger.members(host.settings.course):
        raise InputError("nobody is set up in this course yet", "Run `nblauncher setup` first.")
    if problems := accommodations.without_starts([found], students_of(host)[0]):
        raise InputError(problems, "Nothing was changed. Or give them more time with `nblauncher extend`.")
    host.course_ledger.add_deadline(found)
    return found


def later(host: Host, one: Deadline) -> list[Moment]:
    """Whose own moment comes after the class's, for their extra time; earliest first."""
    found, _problems = deadlines.moments_of([one], students_of(host)[0], {})
    return [each for each in found if each.at > one.at]


def cancel(host: Host, name: str) -> Deadline:
    """What `retrieve --at` scheduled, by name. InputError when there is no such thing, or it is over."""
    left = {one.deadline.name for one in pending(host)[0]}
    known = [one for one in host.course_ledger.deadlines() if one.name in left]
    found = next((one for one in known if one.name == name), None)
    if found is None:
        if any(one.name == name for one in host.settings.deadlines):
            raise InputError(f"the deadline for {name} is in the config", "Take it out there, and run `reload`.")
        names = ", ".join(one.name for one in known) or "none"
        raise InputError(f'nothing is scheduled under the name "{printable(name)}" (there is: {names})')
    host.course_ledger.cancel_deadlines([name])
    return found


def extend(host: Host, username: str, more: timedelta, which: str | None, now: datetime) -> Moment:
    """More time for one student: of the deadline of that name, else of the next one, else of the last one.

    One that is past is reopened for this student alone; where the moment and `more` are past as well, `more` counts
    from now. Answers with the new moment. InputError when there is no such deadline.
    """
    own = [one for one in everybodys(host)[0] if one.username == username]
    to_come = [one for one in own if one.at > now]
    found = [one for one in own if one.deadline.name == which] if which is not None else (to_come or own[-1:])
    if not found:
        known = ", ".join(one.deadline.name for one in own) or "none"
        raise InputError(f"{username} has no such deadline (there is: {known})")
    old = found[0]
    at = old.at + more if old.at + more > now else now.replace(microsecond=0) + more
    host.course_ledger.extend(old.deadline.name, username, at - old.at)
    return deadlines.Moment(old.deadline, username, at)


def _is_taken(host: Host, moment: Moment, stored: Container[_Id]) -> bool:
    """Whether it was captured and is on its way: into the store, or, where it is there, to the receipt."""
    return copies.moment_id(moment) in stored or is_captured(host, moment)


def _same_time(found: Sequence[Moment]) -> tuple[Moment, ...]:
    """Those of the earliest."""
    return tuple(one for one in found if one.at == found[0].at)
