"""All students' moments: which are still to be done, and what became of the others. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from nblauncher.commands.deadlines import copies, folders
from nblauncher.config import deadlines, times
from nblauncher.config.deadlines import Moment
from nblauncher.errors import InputError
from nblauncher.ledger import Capture
from nblauncher.model import Deadline, Student
from nblauncher.planning.host import Host


class CaptureState(str, Enum):
    """What became of one student's work at one moment."""

    TO_COME = "to come"
    CAPTURED = "captured"
    INCOMPLETE = "incomplete"  # in the store, without something that may hold work
    LATE = "late"  # in the store, as it was after the moment
    NOT_STORED = "not stored"  # captured, and not in the teacher's store yet
    FAILED = "not captured"
    SUPERSEDED = "superseded"  # in the store; the student was given a later moment


TROUBLE = (CaptureState.INCOMPLETE, CaptureState.LATE, CaptureState.NOT_STORED, CaptureState.FAILED)
"""States that the teacher must know about."""


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
            return f"{self.deadline}: not captured at {times.short(self.at)}{why}"
        if self.state is CaptureState.LATE and self.captured:
            return f"{self.deadline}: captured LATE, at {times.short(self.captured)}{why}"
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


def all_moments(host: Host) -> tuple[list[Moment], list[str]]:
    """Every student's moments, earliest first, and a line for each extra time that is not valid."""
    wanted = folders.resolved(host, (*host.settings.deadlines, *host.course_ledger.deadlines()))
    students, unread = students_of(host)
    found, problems = deadlines.moments_of(wanted, students, host.course_ledger.extensions())
    return found, [*unread, *problems]


def pending(host: Host) -> tuple[list[Moment], list[str]]:
    """The moments that are not finished, earliest first, and a line for each extra time that is not valid."""
    found, problems = all_moments(host)
    done = copies.stored(host)
    return [
        moment for moment in found if copies.moment_id(moment) not in done or copies.file_of(host, moment).exists()
    ], problems


def scheduled(host: Host, now: datetime) -> tuple[Deadline, ...]:
    """Deadlines of `retrieve --at` that are still to come for at least one student."""
    to_come = {moment.deadline.name for moment in pending(host)[0] if moment.at > now}
    return tuple(deadline for deadline in host.course_ledger.deadlines() if deadline.name in to_come)


def captures(host: Host, now: datetime) -> list[Captured]:
    """Every student's every moment, and captures of moments that were moved since; by time."""
    found, _problems = all_moments(host)
    stored = copies.stored(host)
    failed = host.course_ledger.failed_captures()
    result = [_of_moment(host, moment, stored.get(copies.moment_id(moment)), failed, now) for moment in found]
    current = {copies.moment_id(moment) for moment in found}
    moved = {(moment.deadline.name, moment.username) for moment in found}
    # The ledger has the oldest first, so the newest remains.
    newest = {(capture.name, capture.username): capture for capture in stored.values()}
    for key, capture in stored.items():
        if key not in current:
            student = capture.name, capture.username
            is_newest = student not in moved and newest[student] is capture
            result.append(_stored(capture) if is_newest else _stored(capture, CaptureState.SUPERSEDED))
    return sorted(result, key=lambda capture: (capture.at, capture.deadline))


def trouble(host: Host, now: datetime) -> dict[str, list[Captured]]:
    """Captures that failed, came late or are incomplete, by student."""
    return troubled(captures(host, now))


def troubled(some: Iterable[Captured]) -> dict[str, list[Captured]]:
    """The same of some captures."""
    found: dict[str, list[Captured]] = {}
    for capture in some:
        if capture.state in TROUBLE:
            found.setdefault(capture.username, []).append(capture)
    return found


def missed(host: Host, now: datetime) -> tuple[str, ...]:
    """Warnings for a command that starts the class: moments that passed without a capture."""
    counts: dict[tuple[str, datetime], int] = {}
    for capture in captures(host, now):
        if capture.state is CaptureState.FAILED:
            counts[capture.deadline, capture.at] = counts.get((capture.deadline, capture.at), 0) + 1
    return tuple(
        f"deadline {name} is past ({times.short(at)}): the work of {count} "
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


def _stored(capture: Capture, state: CaptureState | None = None) -> Captured:
    if state is None:
        is_late = capture.captured - capture.at > copies.LATE_AFTER
        state = CaptureState.LATE if is_late else CaptureState.INCOMPLETE if capture.remark else CaptureState.CAPTURED
    return Captured(
        capture.name, capture.username, capture.at, state, capture.captured, capture.retrieved, capture.remark
    )


def students_of(host: Host) -> tuple[list[Student], list[str]]:
    """The students of the course with their rows of the accepted roster, and why it cannot be read if it cannot.

    They are captured all the same.
    """
    known: tuple[Student, ...] = ()
    problems = []
    try:
        known = folders.accepted_students(host)
    except (OSError, InputError) as error:
        problems.append(f"extra time is not given, because the accepted roster cannot be read: {error}")
    rows = {student.username: student for student in known}
    return [rows.get(name, Student(name)) for name in host.ledger.members(host.settings.course)], problems
