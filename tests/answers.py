"""Submissions of nbgrader's sample assignment ps1: honest ones, and notebooks with cells of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.graded import Graded
from tests.notebooks import cell

Notebook = dict[str, Any]
Change = Callable[[Notebook], None]

SQUARES = (
    "def squares(n):\n    if n < 1:\n        raise ValueError(n)\n    return [i ** 2 for i in range(1, n + 1)]",
    "def squares(n):\n    return [i * i for i in range(1, n + 1)]",
    "def squares(n):\n    return []",
    "def squares(n:\n    pass",
)
SUMS = (
    "def sum_of_squares(n):\n    return sum(squares(n))",
    "def sum_of_squares(n):\n    return sum(i * i for i in range(n + 1))",
    "raise RuntimeError('not ready')",
)
ALL_RIGHT = {"squares": SQUARES[0], "sum_of_squares": SUMS[0]}
ALL_WRONG = {"squares": SQUARES[2], "sum_of_squares": "def sum_of_squares(n):\n    return -1"}
TESTS = {
    "correct_squares": 1.0,
    "squares_invalid_input": 1.0,
    "correct_sum_of_squares": 0.5,
    "sum_of_squares_uses_squares": 0.5,
}
"""The tested cells of problem1, and their points."""


def honest(number: int) -> dict[str, str]:
    """One of twelve different ways to answer, right and wrong."""
    sources = {"squares": SQUARES[number % len(SQUARES)], "sum_of_squares": SUMS[number % len(SUMS)]}
    written = {"sum_of_squares_equation": f"$x_{number}$", "part-a": f"it recurses {number} times"}
    return {**sources, **(written if number % 2 else {})}


def answered(answers: Mapping[str, str], *changes: Change) -> Change:
    def change(notebook: Notebook) -> None:
        for name, source in answers.items():
            if found := named(notebook, name):
                found["source"] = source
        for further in changes:
            further(notebook)

    return change


def named(notebook: Notebook, name: str) -> dict[str, Any]:
    """The cell with this grade_id; empty when there is none."""
    return next((one for one in notebook["cells"] if name_of(one) == name), {})


def name_of(one: Mapping[str, Any]) -> str:
    about = one["metadata"].get("nbgrader")
    return str(about.get("grade_id", "")) if isinstance(about, dict) else ""


def with_cell(source: str, *, last: bool = False) -> Change:
    """A cell of one's own before all others, or after them."""

    def change(notebook: Notebook) -> None:
        one = cell(source, "own" + "-last" * last)
        notebook["cells"].insert(len(notebook["cells"]) if last else 0, one)

    return change


def hand_in(
    course: Graded, student: str, change: Change, *, files: Mapping[str, bytes | str] | None = None, when: str = ""
) -> Path:
    """What `retrieve --assignment ps1` would submit: the release, with problem1 changed."""
    there = course.course / "submitted" / student / "ps1"
    there.mkdir(parents=True, exist_ok=True)
    for file in (course.course / "release/ps1").iterdir():
        data = file.read_bytes()
        if file.suffix == ".ipynb":
            notebook = json.loads(data)
            if file.stem == "problem1":
                change(notebook)
            data = json.dumps(notebook).encode()
        (there / file.name).write_bytes(data)
    (there / "timestamp.txt").write_text(f"{when or '2026-01-02 10:00:00.000000 UTC'}\n")
    for name, content in (files or {}).items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(content.encode() if isinstance(content, str) else content)
    course.room.hand_over()
    return there
