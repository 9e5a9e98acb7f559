"""Tables at the width of the terminal: nothing is wider, and no word of a cell is lost."""

from __future__ import annotations

import itertools

import pytest
from rich.cells import cell_len

from nblauncher.cli import render
from nblauncher.planning.plan import Report

NAMES = [f"student-with-a-long-name-{number:03}" for number in range(40)]
PATH = "week-01/a-folder-with-a-long-name/lab notebook of 吳健雄 with a long title.ipynb"
WHEN = "2026-11-27T17:00:00.000+01:00"


def changes(width: int) -> str:
    report = Report.of(NAMES)
    for name in NAMES[:30]:
        report[name].details["changes"] = [{"path": PATH, "change": "put beside", "detail": "of-the-teacher.ipynb"}]
    return render.changes_text(report, width)


def retrieved(width: int) -> str:
    report = Report.of(NAMES)
    left_out = {"path": PATH, "reason": "too large", "incomplete": True}
    for student in report.students.values():
        student.status = "done"
        student.details = {"files": 12, "changed": 3, "gone": 1, "since": WHEN, "exceptions": [left_out]}
    return render.retrieved_text(report, width)


def snapshots(width: int) -> str:
    taken = [{"time": WHEN, "files": 120, "bytes": 12_345_678, "changed": 12, "complete": False}]
    return render.history_text(taken, {PATH: 3}, width)


def versions(width: int) -> str:
    return render.versions_text([{"first": WHEN, "last": WHEN, "bytes": 5000, "present": True}], width)


def hostile(width: int) -> str:
    return render.table(("student", "until", "state"), [("ada\x1b[2J", "2026-11-27 17:00:00 +0100", "x" * 300)], width)


TABLES = (
    (changes, ("putbeside", "of-the-teacher.ipynb", NAMES[0], "20more")),
    (retrieved, (NAMES[0], NAMES[-1], "INCOMPLETE", "3files")),
    (snapshots, ("12.3MB", "incomplete")),
    (versions, ("5.0kB", "present")),
    (hostile, ("ada\\x1b[2J", "2026-11-2717:00:00+0100")),
)


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("made, words", TABLES, ids=lambda given: getattr(given, "__name__", ""))
def test_a_table_fits_the_terminal_and_says_all(made, words: tuple[str, ...], width: int) -> None:
    text = made(width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert set("".join(words)) - {" "} <= set(text)
    for word in words:
        assert any(word in column for column in columns(text)), f"{word} is not in\n{text}"


def columns(text: str) -> list[str]:
    """The cells of a row, each put together again: a folded cell goes on below itself."""
    lines = [line for line in text.splitlines() if line]
    rows = ["".join("".join(line.split()) for line in lines)]
    width = max(map(len, lines))
    padded = [line.ljust(width) for line in lines]
    gaps = [at for at in range(width) if all(line[at] == " " for line in padded)]
    edges = [-1, *gaps, width]
    for left, right in itertools.pairwise(edges):
        rows.append("".join("".join(line[left + 1 : right].split()) for line in padded))
    return rows
