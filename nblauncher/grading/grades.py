"""What the gradebook says, as the teacher's process answered it (`teacher_side/grades.py`): checked, then values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.exchange import rows
from nblauncher.exchange.rows import Row

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Grade:
    """One submission."""

    assignment: str
    student: str
    score: float
    """Less the late penalty, as nbgrader's own export has it."""
    max_score: float
    late_penalty: float
    late_seconds: float
    manual_score: float | None
    """The sum of what a person gave; None: nobody did."""
    extra_credit: float | None
    needs_manual_grade: bool

    @property
    def late_days(self) -> float:
        return round(self.late_seconds / DAY, 2)


@dataclass(frozen=True, slots=True)
class Known:
    """A student of the gradebook, who need not be on the roster."""

    username: str
    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Grades:
    """Of one assignment or of all: maximum by assignment, students by username, grades by assignment and username."""

    assignments: Mapping[str, float]
    students: Mapping[str, Known]
    grades: Mapping[tuple[str, str], Grade]

    def of(self, username: str) -> tuple[Grade, ...]:
        return tuple(grade for name in self.assignments if (grade := self.grades.get((name, username))) is not None)


def from_answer(answer: Any) -> Grades:
    """HostError unless it is what `teacher_side/grades.py` answers."""
    if not isinstance(answer, dict):
        raise _malformed("not an object")
    found = [_grade(row) for row in rows.objects(answer.get("grades"))]
    return Grades(
        {rows.text(row, "name"): _number(row, "max_score") for row in rows.objects(answer.get("assignments"))},
        {
            (name := rows.text(row, "id")): Known(name, rows.text(row, "name"), rows.text(row, "email"))
            for row in rows.objects(answer.get("students"))
        },
        {(grade.assignment, grade.student): grade for grade in found},
    )


def _grade(row: Row) -> Grade:
    return Grade(
        rows.text(row, "assignment"),
        rows.text(row, "student"),
        _number(row, "score"),
        _number(row, "max_score"),
        _number(row, "late_penalty"),
        _number(row, "late_seconds"),
        _number_or_none(row, "manual_score"),
        _number_or_none(row, "extra_credit"),
        rows.truth(row, "needs_manual_grade"),
    )


def _number_or_none(row: Row, key: str) -> float | None:
    return None if row.get(key) is None else _number(row, key)


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _malformed(f"{key} is not a number")
    return float(value)


def _malformed(what: str) -> HostError:
    return HostError(f"what nbgrader answered is malformed: {what}")
