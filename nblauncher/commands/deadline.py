"""What happens at a deadline: a first copy, everybody stands still, what changed is copied, everybody goes on.

Then the work goes into the teacher's store, and a signed receipt into each home. Each stage finds what the one before
left, so that after a kill the next run goes on; what was captured is never captured again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from nblauncher import accommodations, deadlines, moments, survey
from nblauncher.commands import copies, folders
from nblauncher.commands.capturing import LAST_COPY, CaptureAll, EarlyCopy, Wait
from nblauncher.commands.copies import Round
from nblauncher.commands.publishing import ClearAway, GiveReceipt, PublishCapture
from nblauncher.commands.retrieve import AT_ONCE
from nblauncher.deadlines import Moment
from nblauncher.errors import InputError
from nblauncher.host import Host
from nblauncher.model import Deadline, Student
from nblauncher.plan import Phase, Plan

LEAD = timedelta(seconds=360)
"""How long before its moment a round may begin."""


def pending(host: Host) -> tuple[list[Moment], list[str]]:
    """The moments of which something is left to do, earliest first, and whose extra time is none, in words."""
    found, problems = _everybodys(host)
    done = copies.stored(host)
    return [one for one in found if copies.moment_id(one) not in done or copies.file_of(host, one).exists()], problems


def everybodys(host: Host) -> list[Moment]:
    """All moments, also those that are over."""
    return _everybodys(host)[0]


def rounds(found: Iterable[Moment]) -> list[Round]:
    by_time: dict[datetime, list[Moment]] = {}
    for one in found:
        by_time.setdefault(one.at, []).append(one)
    return [Round(at, tuple(several)) for at, several in sorted(by_time.items())]


def due(host: Host, now: datetime) -> list[Round]:
    """Rounds that may begin now, those that were missed first."""
    return [one for one in rounds(pending(host)[0]) if one.at <= now + LEAD]


def plan(host: Host, one: Round) -> Plan:
    """The stages of a round."""
    facts = survey.survey(host, one.usernames)
    there = tuple(moment for moment in one.moments if moment.username in facts.members)
    if not there:
        return Plan()
    names = tuple(dict.fromkeys(moment.username for moment in there))
    by_deadline: dict[Deadline, list[str]] = {}
    for moment in there:
        by_deadline.setdefault(moment.deadline, []).append(moment.username)
    return Plan(
        (
            Phase("a first copy", tuple(EarlyCopy(moment) for moment in there), parallel=AT_ONCE),
            Phase("wait", (Wait(one.at - LAST_COPY),)),
            Phase("what changed since", tuple(EarlyCopy(moment) for moment in there), parallel=AT_ONCE),
            Phase("the moment", (CaptureAll(one, names),)),
            Phase("publish", tuple(PublishCapture(one, each, tuple(who)) for each, who in by_deadline.items())),
            Phase("receipts", tuple(GiveReceipt(moment) for moment in there), parallel=AT_ONCE),
            Phase("clear", (ClearAway(),)),
        ),
        tuple(pending(host)[1]),
    )


def summary(host: Host, one: Round) -> str:
    """Where the work is and how long everybody stood still, in words."""
    if not one.folders:
        return "retrieve: nothing was captured."
    where = ", ".join(str(host.settings.retrieve.target / folder) for folder in one.folders.values())
    stood = f"; everybody stood still for {one.pause:.2f} s" if one.pause else ""
    return f"The work as it was at {moments.words(one.at)} is in {where}{stood}"


def add(host: Host, at: datetime, folder: str, now: datetime) -> Deadline:
    """A deadline of `retrieve --at`; an earlier one of the folder is replaced. InputError when it is past."""
    if at <= now:
        raise InputError(f"{moments.words(at)} is past", "Without --at the work is retrieved as it is now.")
    folder = folders.meant(host, folder, "--assignment").folder if folder else ""
    name = folder or f"at {at.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    if any(one.name == name for one in host.settings.deadlines):
        raise InputError(f"the config has a deadline for {name} already", "Change it there, and run `reload`.")
    found = Deadline(name, folder, at)
    if problems := accommodations.without_starts([found], _students(host)[0]):
        raise InputError(problems, "Nothing was changed. Or give them more time with `nblauncher extend`.")
    host.course_ledger.add_deadline(found)
    return found


def extend(host: Host, username: str, more: timedelta, which: str | None) -> Moment:
    """More time for one student: of the deadline of that name, else of the next one. Answers with the new moment.

    InputError when there is none to come.
    """
    to_come = [one for one in pending(host)[0] if one.username == username]
    found = [one for one in to_come if which is None or one.deadline.name == which]
    if not found:
        known = ", ".join(one.deadline.name for one in to_come) or "none"
        raise InputError(f"{username} has no such deadline to come (there is: {known})")
    host.course_ledger.extend(found[0].deadline.name, username, more)
    return Moment(found[0].deadline, username, found[0].at + more)


def _everybodys(host: Host) -> tuple[list[Moment], list[str]]:
    wanted = folders.resolved(host, (*host.settings.deadlines, *host.course_ledger.deadlines()))
    students, unread = _students(host)
    found, problems = deadlines.moments_of(wanted, students, host.course_ledger.extensions())
    return found, [*unread, *problems]


def _students(host: Host) -> tuple[list[Student], list[str]]:
    """Those of the course, with what the accepted roster says about them, and why that cannot be read.

    They are captured all the same.
    """
    known: tuple[Student, ...] = ()
    problems = []
    try:
        known = folders.accepted_students(host)
    except (OSError, InputError) as error:
        problems.append(f"nobody has the extra time of the roster, because the accepted one cannot be read: {error}")
    rows = {student.username: student for student in known}
    return [rows.get(name, Student(name)) for name in host.ledger.members(host.settings.course)], problems
