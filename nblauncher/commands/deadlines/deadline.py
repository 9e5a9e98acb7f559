"""What happens at a deadline: copy beforehand, freeze the class, copy what changed, thaw.

Then the work goes into the teacher's store, and a signed receipt into each home. `next_task` works out from the ledger
what to do now: a waiting command holds no plan and no lock, so a moment can be postponed, cancelled or added at any
time. Each task starts from what the one before left, so that the next run continues after a kill; what was captured is
never captured again.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum

from nblauncher.commands.deadlines import copies, folders
from nblauncher.commands.deadlines.capture import CaptureAll, EarlyCopy
from nblauncher.commands.deadlines.copies import Round
from nblauncher.commands.deadlines.pending import all_moments, pending, students_of
from nblauncher.commands.deadlines.publish import DeleteStored, GiveReceipt, PublishCapture
from nblauncher.commands.retrieve import AT_ONCE
from nblauncher.config import deadlines, extra_time, times
from nblauncher.config.deadlines import Moment
from nblauncher.errors import InputError
from nblauncher.model import Deadline
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan
from nblauncher.printable import printable

LEAD = timedelta(seconds=360)
"""How long before the moment the work is copied for the first time."""

LAST_COPY = timedelta(seconds=15)
"""How long before the moment the changes since are copied."""

READY = timedelta(seconds=3)
"""How long before the moment we stop all other work and wait for it under the lock."""

_NO_HURRY = timedelta(seconds=30)
"""Publishing and missed moments wait while a moment is nearer than this."""

_LONGEST_COPIES = timedelta(seconds=30)
"""After this long we look again for other tasks; a deadline may have been set meanwhile."""
_LONGEST_LATE = timedelta(seconds=60)
"""For a moment that is past: a student with much work must not hold up the class."""
_RETRY = 60.0


class Kind(str, Enum):
    """What to do now."""

    COPY = "copy"
    CAPTURE = "capture"
    PUBLISH = "publish"
    WAIT = "wait"


@dataclass(frozen=True)
class Task:
    """`round`: the students concerned; for a `WAIT`, those with later moments. A `COPY` must end at `until`."""

    kind: Kind
    round: Round
    until: datetime | None = None
    is_last_copy: bool = False


_Id = tuple[str, str, datetime]


@dataclass
class Seen:
    """What this command has tried so far."""

    copied: set[tuple[_Id, bool]] = field(default_factory=set)
    """With whether it was the last copy."""
    tried: dict[_Id, float] = field(default_factory=dict)
    """Failed moments, with the time of the failure on the monotonic clock."""
    rounds: dict[datetime, Round] = field(default_factory=dict)

    def had_their_turn(self, found: Iterable[Moment], *, is_last: bool) -> None:
        self.copied |= {(copies.moment_id(moment), is_last) for moment in found}

    def failed(self, found: Iterable[Moment]) -> None:
        self.tried |= {copies.moment_id(moment): time.monotonic() for moment in found}

    def may_be_tried(self, moment: Moment) -> bool:
        last = self.tried.get(copies.moment_id(moment))
        return last is None or time.monotonic() - last > _RETRY

    def round_of(self, found: Sequence[Moment]) -> Round:
        """The round of these moments, with what is known about it."""
        known = self.rounds.setdefault(found[0].at, Round(found[0].at, ()))
        known.moments = tuple(found)
        return known


def next_task(host: Host, seen: Seen, now: datetime, only: str = "") -> Task | None:
    """The most urgent task for moments that are near or past, or for every moment of the deadline `only`.

    None when everything was done or tried.
    """
    found = [moment for moment in pending(host)[0] if only in ("", moment.deadline.name) and seen.may_be_tried(moment)]
    stored = copies.stored(host)
    taken = [moment for moment in found if moment.at <= now + READY and _is_taken(host, moment, stored)]
    open_ones = [moment for moment in found if moment not in taken and (only or moment.at <= now + LEAD)]
    in_time = [moment for moment in open_ones if moment.at >= now - copies.LATE_AFTER]
    if in_time and in_time[0].at <= now + READY:
        return Task(Kind.CAPTURE, seen.round_of(_same_time(in_time)))
    nearest = in_time[0].at - READY if in_time else now + _LONGEST_LATE
    if nearest > now + _NO_HURRY - READY:
        if taken:
            return Task(Kind.PUBLISH, seen.round_of(_same_time(taken)))
        missed = [moment for moment in open_ones if moment not in in_time]
        if uncopied := [moment for moment in missed if (copies.moment_id(moment), False) not in seen.copied]:
            return Task(Kind.COPY, Round(uncopied[0].at, _same_time(uncopied)), min(nearest, now + _LONGEST_LATE))
        if missed:
            return Task(Kind.CAPTURE, seen.round_of(_same_time(missed)))
    for is_last, lead in ((True, LAST_COPY), (False, LEAD)):
        early = [moment for moment in in_time if READY < moment.at - now <= lead]
        if uncopied := [moment for moment in early if (copies.moment_id(moment), is_last) not in seen.copied]:
            until = min(nearest, now + _LONGEST_COPIES)
            return Task(Kind.COPY, Round(uncopied[0].at, _same_time(uncopied)), until, is_last_copy=is_last)
    waiting = tuple(open_ones or taken)
    return Task(Kind.WAIT, Round(waiting[0].at, waiting)) if waiting else None


def left_of(host: Host, task: Task) -> list[Moment]:
    """The moments of a finished task for which it failed."""
    ids = {copies.moment_id(moment) for moment in task.round.moments}
    left = [moment for moment in pending(host)[0] if copies.moment_id(moment) in ids]
    return [moment for moment in left if task.kind is Kind.PUBLISH or not copies.is_captured(host, moment)]


def is_on_its_way(host: Host, round_: Round) -> bool:
    """Whether any work was captured in this round and is still to be published."""
    return any(copies.is_captured(host, moment) for moment in round_.moments)


def plan(host: Host, task: Task) -> Plan:
    """The steps of a task for the moments that are still pending: another command may have done some."""
    found, problems = pending(host)
    current = {copies.moment_id(moment) for moment in found}
    there = tuple(moment for moment in task.round.moments if copies.moment_id(moment) in current)
    if not there:
        return Plan()
    if task.kind is Kind.COPY and task.until is not None:
        steps = tuple(EarlyCopy(moment, task.until) for moment in there)
        return Plan((Phase("early copies", steps, parallel=AT_ONCE),))
    if task.kind is Kind.CAPTURE:
        names = tuple(dict.fromkeys(moment.username for moment in there))
        return Plan((Phase("the moment", (CaptureAll(task.round, names),)),), tuple(problems))
    by_deadline: dict[Deadline, list[str]] = {}
    for moment in there:
        by_deadline.setdefault(moment.deadline, []).append(moment.username)
    return Plan(
        (
            Phase(
                "publish", tuple(PublishCapture(task.round, each, tuple(names)) for each, names in by_deadline.items())
            ),
            Phase("receipts", tuple(GiveReceipt(moment) for moment in there), parallel=AT_ONCE),
            Phase("clean up", (DeleteStored(),)),
        )
    )


def summary(host: Host, round_: Round) -> str:
    """Where the work is, how long the class was frozen and how many students were captured late, in words."""
    if not round_.folders:
        return "retrieve: nothing was captured."
    ids = {copies.moment_id(moment) for moment in round_.moments}
    found = [capture for key, capture in copies.stored(host).items() if key in ids]
    late = sum(capture.captured - capture.at > copies.LATE_AFTER for capture in found)
    where = ", ".join(str(host.settings.retrieve.target / folder) for folder in round_.folders.values())
    frozen = f"; the class was frozen for {round_.pause:.2f} s" if round_.pause else ""
    if not late:
        return f"The work as it was at {times.words(round_.at)} is in {where}{frozen}"
    return (
        f"The work for {times.words(round_.at)} is in {where}{frozen}. It is LATE, as it was when it was captured, for "
        f"{late} of {len(round_.moments)}"
    )


def add(host: Host, at: datetime, folder: str, now: datetime) -> Deadline:
    """A deadline of `retrieve --at`; an earlier one of the folder is replaced. InputError when it is past."""
    if at <= now:
        raise InputError(f"{times.words(at)} is past", "Without --at the work is retrieved as it is now.")
    folder = folders.meant(host, folder, "--assignment").folder if folder else ""
    added = Deadline(folder or f"at {at.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", folder, at)
    if any(deadline.name == added.name for deadline in host.settings.deadlines):
        raise InputError(f"the config has a deadline for {added.name} already", "Change it there, and run `reload`.")
    if not host.ledger.members(host.settings.course):
        raise InputError("no student is set up in this course yet", "Run `nblauncher setup` first.")
    if problems := extra_time.without_starts([added], students_of(host)[0]):
        raise InputError(problems, "Nothing was changed. Or give them more time with `nblauncher extend`.")
    host.course_ledger.add_deadline(added)
    return added


def later(host: Host, deadline: Deadline) -> list[Moment]:
    """The moments after the class's, of students with extra time; earliest first."""
    found, _problems = deadlines.moments_of([deadline], students_of(host)[0], {})
    return [moment for moment in found if moment.at > deadline.at]


def cancel(host: Host, name: str) -> Deadline:
    """Cancel a deadline of `retrieve --at` by name. InputError when there is none of that name, or it is over."""
    left = {moment.deadline.name for moment in pending(host)[0]}
    known = [deadline for deadline in host.course_ledger.deadlines() if deadline.name in left]
    found = next((deadline for deadline in known if deadline.name == name), None)
    if found is None:
        if any(deadline.name == name for deadline in host.settings.deadlines):
            raise InputError(f"the deadline for {name} is in the config", "Delete it there, and run `reload`.")
        names = ", ".join(deadline.name for deadline in known) or "none"
        raise InputError(f'nothing is scheduled under the name "{printable(name)}" (there is: {names})')
    host.course_ledger.cancel_deadlines([name])
    return found


def extend(host: Host, username: str, more: timedelta, which: str | None, now: datetime) -> Moment:
    """Give one student more time: for the deadline of that name, else the next one, else the last one.

    A past deadline is reopened for this student alone; if the moment plus `more` is past as well, `more` counts from
    now. Returns the new moment. InputError when there is no such deadline.
    """
    own = [moment for moment in all_moments(host)[0] if moment.username == username]
    to_come = [moment for moment in own if moment.at > now]
    found = [moment for moment in own if moment.deadline.name == which] if which is not None else (to_come or own[-1:])
    if not found:
        known = ", ".join(moment.deadline.name for moment in own) or "none"
        raise InputError(f"{username} has no such deadline (there is: {known})")
    old = found[0]
    at = old.at + more if old.at + more > now else now.replace(microsecond=0) + more
    host.course_ledger.extend(old.deadline.name, username, at - old.at)
    return deadlines.Moment(old.deadline, username, at)


def _is_taken(host: Host, moment: Moment, stored: Container[_Id]) -> bool:
    """Whether it was captured and still has to be published, or its receipt given."""
    return copies.moment_id(moment) in stored or copies.is_captured(host, moment)


def _same_time(found: Sequence[Moment]) -> tuple[Moment, ...]:
    """The moments at the earliest time."""
    return tuple(moment for moment in found if moment.at == found[0].at)
