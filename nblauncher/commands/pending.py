"""Everybody's moments: what is left to do of which, and what became of the work of each. Looks, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from nblauncher import deadlines, moments
from nblauncher.commands import copies, folders
from nblauncher.deadlines import Moment
from nblauncher.errors import InputError
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.model import Deadline, Student


class CaptureState(str, Enum):
    """What became of one student's work at one moment."""

    TO_COME = "to come"
    CAPTURED = "captured"
    INCOMPLETE = "incomplete"  # in the store, and something that may hold work was left out
    LATE = "late"  # in the store, as it was some time after the moment
    NOT_STORED = "not stored"  # captured, and not in the teacher's store yet
    FAILED = "not captured"
    SUPERSEDED = "superseded"  # in the store; the student was given a later moment


TROUBLE = (CaptureState.INCOMPLETE, CaptureState.LATE, CaptureState.NOT_STORED, CaptureState.FAILED)
"""What a teacher must be told."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One student's work at one moment of a deadline, and what became of it."""

    deadline: str
    username: str
    at: datetime
    state: CaptureState
    captured: datetime | None = None
    folder: str = ""
    """In the teacher's store."""
    reason: str = ""

    def words(self) -> str:
        """`ps1: not captured at 2026-11-27 17:00:00 +0100 (the home is not there)`."""
        why = f" ({self.reason})" if self.reason else ""
        if self.state is CaptureState.FAILED:
            return f"{self.deadline}: not captured at {moments.short(self.at)}{why}"
        if self.state is CaptureState.LATE and self.captured:
            return f"{self.deadline}: captured LATE, at {moments.short(self.captured)}{why}"
        if self.state is CaptureState.NOT_STORED:
            return f"{self.deadline}: captured, and not in the store yet"
        return f"{self.deadline}: {self.state.value}{why}"

    def entry(self) -> dict[str, str | None]:
        """For JSON."""
        return {
            "deadline": self.deadline,
            "at": self.at.astimezone().isoformat(timespec="seconds"),
            "state": self.state.value,
            "captured": self.captured.astimezone().isoformat(timespec="milliseconds") if self.captured else None,
            "folder": self.folder or None,
            "reason": self.reason or None,
        }


def everybodys(host: Host) -> tuple[list[Moment], list[str]]:
    """Every student's moments, earliest first, and whose extra time is none, in words."""
    wanted = folders.resolved(host, (*host.settings.deadlines, *host.course_ledger.deadlines()))
    students, unread = students_of(host)
    found, problems = deadlines.moments_of(wanted, students, host.course_ledger.extensions())
    return found, [*unread, *problems]


def pending(host: Host) -> tuple[list[Moment], list[str]]:
    """The moments of which something is left to do, earliest first, and whose extra time is none, in words."""
    found, problems = everybodys(host)
    done = copies.stored(host)
    return [one for one in found if copies.moment_id(one) not in done or copies.file_of(host, one).exists()], problems


def scheduled(host: Host, now: datetime) -> tuple[Deadline, ...]:
    """Those of `retrieve --at` that are still to come, for somebody at least."""
    to_come = {one.deadline.name for one in pending(host)[0] if one.at > now}
    return tuple(one for one in host.course_ledger.deadlines() if one.name in to_come)


def captures(host: Host, now: datetime) -> list[Captured]:
    """Every moment of everybody, and what was captured for an earlier moment that was moved since; by time."""
    found, _problems = everybodys(host)
    stored = copies.stored(host)
    failed = host.course_ledger.failed_captures()
    result = [_of_moment(host, one, stored.get(copies.moment_id(one)), failed, now) for one in found]
    current = {copies.moment_id(one) for one in found}
    moved = {(one.deadline.name, one.username) for one in found}
    newest = {(one.name, one.username): one for one in stored.values()}  # the ledger has the oldest first
    for key, one in stored.items():
        if key not in current:
            is_newest = (one.name, one.username) not in moved and newest[one.name, one.username] is one
            result.append(_stored(one) if is_newest else _stored(one, CaptureState.SUPERSEDED))
    return sorted(result, key=lambda one: (one.at, one.deadline))


def trouble(host: Host, now: datetime) -> dict[str, list[Captured]]:
    """By student: captures that failed, came late or are incomplete."""
    found: dict[str, list[Captured]] = {}
    for one in captures(host, now):
        if one.state in TROUBLE:
            found.setdefault(one.username, []).append(one)
    return found


def missed(host: Host, now: datetime) -> tuple[str, ...]:
    """What a command that brings the class up warns of: moments that passed and were not captured."""
    counts: dict[tuple[str, datetime], int] = {}
    for one in captures(host, now):
        if one.state is CaptureState.FAILED:
            counts[one.deadline, one.at] = counts.get((one.deadline, one.at), 0) + 1
    return tuple(
        f"deadline {name} is past ({moments.short(at)}): the work of {count} "
        f"{'student' if count == 1 else 'students'} was not captured then; it is captured as it is now, marked late"
        for (name, at), count in counts.items()
    )


def _of_moment(
    host: Host,
    moment: Moment,
    stored: Capture | None,
    failed: dict[tuple[str, str, datetime], str],
    now: datetime,
) -> Captured:
    if stored is not None:
        return _stored(stored)
    name, at = moment.deadline.name, moment.at
    if at > now:
        return Captured(name, moment.username, at, CaptureState.TO_COME)
    known = copies.load(host, moment)
    if known is not None and known.captured is not None:
        return Captured(name, moment.username, at, CaptureState.NOT_STORED, known.captured)
    if now - at <= copies.LATE_AFTER and copies.moment_id(moment) not in failed:
        return Captured(name, moment.username, at, CaptureState.TO_COME)
    reason = failed.get(copies.moment_id(moment), "")
    return Captured(name, moment.username, at, CaptureState.FAILED, reason=reason)


def _stored(one: Capture, state: CaptureState | None = None) -> Captured:
    if state is None:
        is_late = one.captured - one.at > copies.LATE_AFTER
        state = CaptureState.LATE if is_late else CaptureState.INCOMPLETE if one.remark else CaptureState.CAPTURED
    return Captured(one.name, one.username, one.at, state, one.captured, one.retrieved, one.remark)


def students_of(host: Host) -> tuple[list[Student], list[str]]:
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
