"""Whose work is captured when: deadlines, with everybody's extra time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from nblauncher import accommodations
from nblauncher.model import Deadline, Student
from nblauncher.printable import printable


@dataclass(frozen=True, slots=True)
class Moment:
    """One student's own moment of a deadline."""

    deadline: Deadline
    username: str
    at: datetime


def extra_time(text: str, deadline: Deadline) -> timedelta:
    """What the roster's `extra_time` gives at this deadline.

    ValueError in words; a percentage of a deadline without `starts` is none.
    """
    extra = accommodations.read(text)
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
    """Everybody's moments, earliest first, and whose extra time is none, in words; those get what there is without."""
    found: list[Moment] = []
    problems: list[str] = []
    everybody = list(students)
    for deadline in deadlines:
        for student in everybody:
            more = extensions.get((deadline.name, student.username), timedelta(0))
            try:
                more += extra_time(student.extra_time, deadline)
            except ValueError as error:
                problems.append(f"{student.username}: extra_time: {error}")
            found.append(Moment(deadline, student.username, deadline.at + more))
    return sorted(found, key=lambda one: (one.at, one.deadline.name)), problems
