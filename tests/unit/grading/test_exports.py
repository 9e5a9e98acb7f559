"""Grades as files for a spreadsheet, Moodle and Canvas."""

from __future__ import annotations

import csv
import io

import pytest

from nblauncher.errors import HostError
from nblauncher.grading import exports, grades
from nblauncher.grading.grades import Grades
from nblauncher.model import Roster, Student

ANSWER = {
    "assignments": [{"name": "ps1", "max_score": 13.0}],
    "students": [{"id": name, "name": "", "email": ""} for name in ("ada", "bob", "zoe")],
    "grades": [
        {
            "assignment": "ps1",
            "student": name,
            "score": score,
            "max_score": 13.0,
            "late_penalty": 1,
            "late_seconds": 129_600.0,
            "manual_score": manual,
            "extra_credit": None,
            "needs_manual_grade": manual is None,
        }
        for name, score, manual in (("ada", 7.5, 2.0), ("zoe", 1.0, None))
    ],
}
ROSTER = Roster(
    (
        Student(
            "ada", "Lovelace, Ada", "ada@example.org", "0042", "A", extra=(("score", "x"), ("note", "=1+1")), line=2
        ),
        Student("bob", "-5", "bob@example.org", "", "", extra=(("score", ""), ("note", "+2")), line=3),
    )
)


def found() -> Grades:
    return grades.from_answer(ANSWER)


def read(rows: exports.Rows) -> list[list[str]]:
    return list(csv.reader(io.StringIO(exports.csv_text(rows), newline=""), strict=True))


def test_the_plain_file_has_the_rosters_columns_and_the_gradebooks():
    head, *body = read(exports.plain(found(), ROSTER))
    assert head == [
        *("username", "name", "email", "student_id", "section", "score (roster)", "note"),
        *("assignment", "score", "max_score", "late_days", "late_penalty", "manual_score", "extra_credit"),
        "needs_manual_grade",
    ]
    assert body[0] == [
        *("ada", "Lovelace, Ada", "ada@example.org", "0042", "A", "x", "'=1+1"),
        *("ps1", "7.5", "13", "1.5", "1", "2", "", "no"),
    ]


def test_who_handed_in_nothing_has_an_empty_score_and_not_a_zero():
    row = read(exports.plain(found(), ROSTER))[2]
    assert (row[0], row[8:]) == ("bob", ["", "13", "", "", "", "", ""])


def test_a_student_who_left_the_roster_follows_at_the_end():
    row = read(exports.plain(found(), ROSTER))[3]
    assert (row[0], row[8], row[-1]) == ("zoe", "1", "yes")


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1-1", "@A1", "\t=1", "\r=1", "\n=1", "a;=1", '"=1', " =1", "-5 =1"])
def test_no_cell_is_a_formula(text):
    (row,) = read([[text, "x"]])
    for part in row[0].replace(";", "\n").split("\n"):
        assert not part.strip(' \t\r"').startswith(("=", "+", "@")), row
    assert row[0] != text or text == "-5 =1"


@pytest.mark.parametrize("text", ["-5", "+2", "-0.5", "-0,5", "0042", "7"])
def test_a_number_stays_a_number(text):
    assert read([[text]]) == [[text]]


@pytest.mark.parametrize(
    ("value", "text"), [(-0.5, "-0.5"), (7.0, "7"), (1 / 3, "0.333333"), (-0.0, "0"), (1e7, "10000000")]
)
def test_scores_are_written_without_exponent(value, text):
    assert read([[value]]) == [[text]]


def test_moodle_finds_students_by_email_or_id_and_gets_no_empty_grade():
    assert read(exports.moodle(found(), ROSTER, "ps1", "Assignment: ps1")) == [
        ["Email address", "ID number", "Assignment: ps1"],
        ["ada@example.org", "0042", "7.5"],
    ]


def test_who_has_neither_email_nor_id_is_left_out_for_moodle_and_named():
    nobody = Roster((Student("ada"),))
    assert len(read(exports.moodle(found(), nobody, "ps1", "ps1"))) == 1
    assert exports.unidentified(nobody, found(), "ps1") == ("ada",)


def test_canvas_gets_its_columns_and_the_points_possible():
    assert read(exports.canvas(found(), ROSTER, "ps1", "ps1 (12345)")) == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "ps1 (12345)"],
        ["    Points Possible", "", "", "", "", "13"],
        ["Lovelace, Ada", "", "0042", "ada", "A", "7.5"],
    ]


@pytest.mark.parametrize("score", [None, "7", float("nan"), float("inf"), True])
def test_an_answer_that_is_not_a_number_is_refused(score):
    row = {**ANSWER["grades"][0], "score": score}  # type: ignore[dict-item]
    with pytest.raises(HostError, match="malformed"):
        grades.from_answer({**ANSWER, "grades": [row]})
