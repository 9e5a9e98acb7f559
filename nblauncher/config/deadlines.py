"""When each student's work is captured: deadlines, with extra time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from nblauncher.config import extra_time
from nblauncher.model import Deadline, Student
from nblauncher.printable import printable


@dataclass(frozen=True, slots=True)
class Moment:
    """One student's moment of a deadline."""

    deadline: Deadline
    username: str
    at: datetime


def granted(text: str, deadline: Deadline) -> timedelta:
    """The extra time that the roster's `extra_time` gives at this deadline.

    ValueError in words, also for a percentage when the deadline has no `starts`.
    """
    extra = extra_time.read(text)
    if not extra.percent:
        return extra.length
    if deadline.starts is None:
        raise ValueError(f'"{printable(text.strip())}" of what? deadline {deadline.name} has no `starts`')
    return (deadline.at - deadline.starts) * (extra.percent / 100)


def moments_of(
    deadlines: Iterable[Deadline],
    students: Iterable[Student],
    extensions: Mapping[tuple[str, str], timedelta],
) -> tuple[list[Moment], list[str]]:
    """All students' moments, earliest first, and what is wrong with extra time, in words; that time is not added."""
    found: list[Moment] = []
    problems: list[str] = []
    students = list(students)
    for deadline in deadlines:
        for student in students:
            more = extensions.get((deadline.name, student.username), timedelta(0))
            try:
                more += granted(student.extra_time, deadline)
            except ValueError as error:
                problems.append(f"{student.username}: extra_time: {error}")
            found.append(Moment(deadline, student.username, deadline.at + more))
    return sorted(found, key=lambda moment: (moment.at, moment.deadline.name)), problems
