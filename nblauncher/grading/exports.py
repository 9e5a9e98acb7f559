"""Grades as the rows of a CSV file: a plain one, and those that Moodle and Canvas import. Pure.

Sources: Moodle's page "Grade import", and "How do I import grades in the Gradebook" of Canvas' instructor guide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from nblauncher.config.roster import COLUMNS
from nblauncher.grading.grades import Grade, Grades
from nblauncher.model import Roster, Student
from nblauncher.printable import spreadsheet_cell, spreadsheet_line

Cell = str | float | None
Rows = Sequence[Sequence[Cell]]

_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")
_OURS = (
    *("assignment", "score", "max_score", "late_days", "late_penalty", "manual_score", "extra_credit"),
    "needs_manual_grade",
)


def csv_text(rows: Rows) -> str:
    """No cell is a formula: an apostrophe is put before one that would be. A cell that is a number stays."""
    return "".join(spreadsheet_line([_text(cell) for cell in row]) for row in rows)


def plain(grades: Grades, roster: Roster) -> Rows:
    """A row for each student and assignment: the roster's own columns, then what the gradebook has.

    Without a submission the score is empty. A student who is no longer on the roster follows at the end.
    """
    columns = _columns_of(roster)
    head = [f"{column} (roster)" if column in _OURS else column for column in columns]
    students = [*roster, *_strangers(grades, roster)]
    body = [
        [*(_roster_cell(student, column) for column in columns), *_cells(grades, name, student.username)]
        for name in grades.assignments
        for student in students
        if student.line or (name, student.username) in grades.grades
    ]
    return [[*head, *_OURS], *body]


def moodle(grades: Grades, roster: Roster, assignment: str, column: str) -> Rows:
    """Students with a score only: Moodle takes an empty cell for "no grade" and deletes the one that it has.

    Without email and ID number a student cannot be found there, and is left out.
    """
    body: list[list[Cell]] = [
        [student.email, student.student_id, grade.score]
        for student, grade in _graded(grades, roster, assignment)
        if student.email or student.student_id
    ]
    return [["Email address", "ID number", column], *body]


def canvas(grades: Grades, roster: Roster, assignment: str, column: str) -> Rows:
    """As Canvas exports it; students with a score only. Canvas finds a student by an ID, and else by the login."""
    body: list[list[Cell]] = [
        [student.name or student.username, "", student.student_id, student.username, student.section, grade.score]
        for student, grade in _graded(grades, roster, assignment)
    ]
    return [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", column],
        ["    Points Possible", "", "", "", "", grades.assignments[assignment]],
        *body,
    ]


FORMS: Mapping[str, Callable[[Grades, Roster, str, str], Rows]] = {"moodle": moodle, "canvas": canvas}
"""The forms with one grade column, by name."""


def unidentified(roster: Roster, grades: Grades, assignment: str) -> tuple[str, ...]:
    """Students with a score whom Moodle could not find: they have neither an email address nor an ID number."""
    return tuple(
        student.username
        for student, _grade in _graded(grades, roster, assignment)
        if not student.email and not student.student_id
    )


def _graded(grades: Grades, roster: Roster, assignment: str) -> Iterator[tuple[Student, Grade]]:
    for student in roster:
        if (grade := grades.grades.get((assignment, student.username))) is not None:
            yield student, grade


def _strangers(grades: Grades, roster: Roster) -> list[Student]:
    here = frozenset(roster.usernames)
    return [
        Student(known.username, known.name, known.email)
        for known in grades.students.values()
        if known.username not in here
    ]


def _columns_of(roster: Roster) -> list[str]:
    """Those that the roster fills, in our order, then its own."""
    known = [column for column in COLUMNS if column == "username" or any(getattr(one, column) for one in roster)]
    return [*known, *dict.fromkeys(column for student in roster for column, _cell in student.extra)]


def _roster_cell(student: Student, column: str) -> str:
    return str(getattr(student, column)) if column in COLUMNS else dict(student.extra).get(column, "")


def _cells(grades: Grades, assignment: str, username: str) -> list[Cell]:
    grade = grades.grades.get((assignment, username))
    if grade is None:
        return [assignment, None, grades.assignments[assignment], None, None, None, None, ""]
    return [
        *(assignment, grade.score, grade.max_score, grade.late_days, grade.late_penalty),
        *(grade.manual_score, grade.extra_credit, "yes" if grade.needs_manual_grade else "no"),
    ]


def number(value: float) -> str:
    """7, 7.5, 7.333333: no exponent, no rounding that a person would see."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return number(cell)
    return cell if _NUMBER.fullmatch(cell) else spreadsheet_cell(cell)
