"""The roster's `extra_time`: how much later than the class a student's moment is. Pure.

The student is entitled to it: what cannot be read is an error with a hint, and never counts as nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from nblauncher.config import times
from nblauncher.model import Deadline, Student
from nblauncher.printable import printable

MOST_PERCENT = 400.0
MOST = timedelta(days=60)

_PERCENT = re.compile(r"([0-9]{1,6}(?:[.,][0-9]{1,4})?) ?(?:%|percent|per cent|prozent|pct\.?)", re.I)
_FRACTION = re.compile(r"[0-9]*[.,][0-9]+")
_NONE = frozenset({"", "-", "\N{EN DASH}", "\N{EM DASH}"})


@dataclass(frozen=True, slots=True)
class Extra:
    """A length of time, and a percentage of the time since a deadline's `starts`; one of them is zero."""

    length: timedelta = timedelta(0)
    percent: float = 0.0


def read(text: str) -> Extra:
    """`15`, `15 min`, `1h30m`, `1:30` or `25 %`, with or without a `+`; an empty cell and a dash mean no extra time.

    ValueError in words.
    """
    shown = printable(text.strip()[:60])
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    if plain in _NONE:
        return Extra()
    plain = plain.removeprefix("+").lstrip()
    if match := _PERCENT.fullmatch(plain):
        percent = float(match[1].replace(",", "."))
        if percent > MOST_PERCENT:
            raise ValueError(f'"{shown}" is more than {MOST_PERCENT:.0f}%; is it a typing error?')
        return Extra(percent=percent)
    if _FRACTION.fullmatch(plain):
        raise ValueError(f'"{shown}" of what? write a percentage such as 25%, or minutes such as 15')
    try:
        length = times.length(plain)
    except ValueError:
        raise ValueError(f'"{shown}" is not a length of time such as 15m, 2h or 1d') from None
    if length > MOST:
        raise ValueError(f'"{shown}" is more than {MOST.days} days; is it a typing error?')
    return Extra(length)


def objection(text: str) -> str:
    """What is wrong with the cell, in words; '' when nothing is."""
    try:
        read(text)
    except ValueError as error:
        return f"extra_time: {error}; minutes (15), a length (1h30m) or a percentage (25%) can be read"
    return ""


def without_starts(deadlines: Iterable[Deadline], students: Iterable[Student]) -> list[str]:
    """A line for each deadline without the `starts` that a percentage of extra time needs."""
    relative = [
        student for student in students if not objection(student.extra_time) and read(student.extra_time).percent
    ]
    if not relative:
        return []
    names = ", ".join(
        f"{student.username} (line {student.line}: {printable(student.extra_time.strip())})"
        if student.line
        else f"{student.username} ({printable(student.extra_time.strip())})"
        for student in relative
    )
    return [
        f"deadline {printable(deadline.name)} has no `starts`, and extra time in percent needs it: {names}. Write "
        f"`{printable(deadline.name)}: {{at: ..., starts: ...}}` in the config, or give minutes in the roster"
        for deadline in deadlines
        if deadline.starts is None
    ]
