"""What the gradebook says of every student: read through nbgrader's API, with a query for each assignment.

Runs as the teacher, in nbgrader's Python.
"""

from __future__ import annotations

import os
from typing import Any

from nbgrader.api import Grade, Gradebook, SubmittedAssignment, SubmittedNotebook
from sqlalchemy import func

from nblauncher.grading.teacher_side import course, gradebook


def act(assignment: str = "", patience: float = gradebook.PATIENCE) -> dict[str, Any]:
    """Of this assignment, or of all; `grading/grades.py` reads the answer."""
    api = course.opened(os.getcwd())
    return gradebook.read(api, lambda book: _grades(book, assignment), patience=patience)


def _grades(book: Gradebook, name: str) -> dict[str, Any]:
    chosen = (
        [gradebook.find_assignment(book, name)] if name else sorted(book.assignments, key=lambda one: str(one.name))
    )
    return {
        "assignments": [{"name": one.name, "max_score": float(one.max_score or 0)} for one in chosen],
        "students": [
            {"id": one.id, "name": " ".join(filter(None, (one.first_name, one.last_name))), "email": one.email or ""}
            for one in book.students
        ],
        "grades": [row for one in chosen for row in _submissions(book, one)],
    }


def _submissions(book: Gradebook, assignment: Any) -> list[dict[str, Any]]:
    """The score is what nbgrader's own export says: not below zero, less what being late costs."""
    by_hand = _by_hand(book, assignment)
    query = book.db.query(
        SubmittedAssignment,
        SubmittedAssignment.score,
        SubmittedAssignment.late_submission_penalty,
        SubmittedAssignment.needs_manual_grade,
    ).filter(SubmittedAssignment.assignment_id == assignment.id)
    rows = []
    for submission, raw, penalty, needs_manual_grade in query:
        manual, extra = by_hand.get(submission.id, (None, None))
        rows.append(
            {
                "assignment": assignment.name,
                "student": submission.student_id,
                "score": max(0.0, float(raw or 0) - float(penalty or 0)),
                "max_score": float(assignment.max_score or 0),
                "late_penalty": float(penalty or 0),
                "late_seconds": float(submission.total_seconds_late or 0),
                "manual_score": None if manual is None else float(manual),
                "extra_credit": None if extra is None else float(extra),
                "needs_manual_grade": bool(needs_manual_grade),
            }
        )
    return sorted(rows, key=lambda row: str(row["student"]))


def _by_hand(book: Gradebook, assignment: Any) -> dict[str, tuple[Any, Any]]:
    """By submission, the sums of the scores and of the extra credit that a person gave; None where nobody did."""
    query = (
        book.db.query(SubmittedNotebook.assignment_id, func.sum(Grade.manual_score), func.sum(Grade.extra_credit))
        .join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
        .join(Grade, Grade.notebook_id == SubmittedNotebook.id)
        .filter(SubmittedAssignment.assignment_id == assignment.id)
        .group_by(SubmittedNotebook.assignment_id)
    )
    return {submission: (manual, extra) for submission, manual, extra in query}
