"""feedback and grades with the real nbgrader: from a graded submission to the student's home and a school's system."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import envelope
from tests.graded import Graded, graded_class
from tests.homework import as_student, write
from tests.packages import alone
from tests.taught import ADA, BOB, TEACHER

pytestmark = [pytest.mark.system, pytest.mark.group("builder"), pytest.mark.slow]  # builds nbgrader's environment

PAGES = ["problem1.html", "problem2.html"]


@pytest.fixture(scope="module")
def graded() -> Iterator[Graded]:
    """ada's submission is graded, bob handed in nothing."""
    with alone(), graded_class() as course:
        refused = course.room.sudo("feedback", "ps1", expect=4).stderr
        assert "nblauncher grade init" in refused
        course.room.sudo("grade", "init")
        for command in (("feedback", "ps1"), ("grades", "ps1")):
            assert "ps1" in course.room.sudo(*command, expect=3).stderr
        course.quickstart()
        course.as_teacher("nbgrader", "generate_assignment", "ps1")
        course.autograde("ps1", ADA)
        yield course


def pages(graded: Graded, name: str) -> Path:
    return graded.room.home(name) / "feedback" / "ps1"


def news(graded: Graded, name: str) -> str:
    file = graded.room.tutorial(name) / "News from your teacher.md"
    return file.read_text() if file.exists() else ""


def change_gradebook(graded: Graded, code: str) -> None:
    """As a grader does in the formgrader."""
    program = [
        "from nbgrader.api import Gradebook",
        'with Gradebook("sqlite:///gradebook.db") as book:',
        textwrap.indent(textwrap.dedent(code), "    "),
        "    book.db.commit()",
    ]
    graded.as_teacher(str(graded.python), "-c", "\n".join(program))


def comment(graded: Graded, words: str) -> None:
    """On ada's notebooks."""
    change_gradebook(
        graded,
        f"""
        for notebook in book.find_submission("ps1", "{ADA}").notebooks:
            notebook.comments[0].manual_comment = "{words}"
        """,
    )


def test_feedback_reaches_its_students_home_and_no_other(graded):
    answer = graded.room.sudo("feedback", "ps1", "--json").stdout
    given = {one["username"]: one for one in envelope.checked(answer, 0, "feedback")["students"]}
    assert (given[ADA]["status"], given[BOB]["status"]) == ("done", "unchanged")
    assert [one["path"] for one in given[ADA]["changes"]] == [f"ps1/{name}" for name in PAGES]
    owner = graded.room.home(ADA).stat().st_uid
    for name in PAGES:
        page = pages(graded, ADA) / name
        assert (page.stat().st_uid, page.stat().st_mode & 0o7777) == (owner, 0o400)
        assert page.read_bytes() == (graded.course / "feedback" / ADA / "ps1" / name).read_bytes()
        assert b"Score:" in page.read_bytes()
        assert f"`~/feedback/ps1/{name}`: feedback on your work" in news(graded, ADA)
    assert sorted(os.listdir(pages(graded, ADA))) == PAGES
    assert not (graded.room.home(BOB) / "feedback").exists()
    assert (graded.course / "feedback").stat().st_uid == graded.room.uid


def test_the_second_run_has_nothing_to_do(graded):
    before = {name: (pages(graded, ADA) / name).stat() for name in PAGES}
    rendered = (graded.course / "feedback" / ADA / "ps1" / PAGES[0]).stat()
    said, told = graded.room.sudo("feedback", "ps1"), news(graded, ADA)
    assert "feedback: nothing to do." in said.stdout and f"Not graded yet: {BOB}" in said.stdout
    assert {name: (pages(graded, ADA) / name).stat() for name in PAGES} == before
    assert (graded.course / "feedback" / ADA / "ps1" / PAGES[0]).stat() == rendered
    assert news(graded, ADA) == told


def test_a_score_and_a_comment_by_hand_replace_the_page_and_reach_the_grades(graded):
    before = (pages(graded, ADA) / PAGES[0]).stat()
    change_gradebook(
        graded,
        f"""
        submitted = book.find_submission("ps1", "{ADA}").notebooks
        for notebook in submitted:
            notebook.comments[0].manual_comment = "a fine pendulum"
        grade = [each for notebook in submitted for each in notebook.grades if each.needs_manual_grade][0]
        grade.manual_score, grade.needs_manual_grade = 2.5, False
        """,
    )
    assert "Put the feedback on ps1 into 1 home." in graded.room.sudo("feedback", "ps1").stdout
    page = pages(graded, ADA) / PAGES[0]
    assert b"a fine pendulum" in page.read_bytes() and page.stat().st_mode & 0o7777 == 0o400
    assert page.stat().st_ino != before.st_ino
    assert f"`~/feedback/ps1/{PAGES[0]}`: new feedback on your work, in place of the earlier one" in news(graded, ADA)
    (entry,) = (
        one for one in json.loads(graded.room.sudo("grades", "ps1", "--json").stdout)["students"] if one["grades"]
    )
    assert (entry["username"], entry["grades"][0]["manual_score"]) == (ADA, 2.5)


def test_what_a_student_puts_in_the_way_is_neither_followed_nor_lost(graded):
    first, second = (pages(graded, ADA) / name for name in PAGES)
    as_student(ADA, "rm", "-f", str(first), str(second))
    as_student(ADA, "ln", "-s", "/etc/shadow", str(first))
    write(ADA, f"feedback/ps1/{PAGES[1]}", "my own notes")
    comment(graded, "read this")
    said = graded.room.sudo("feedback", "ps1", expect=5)
    assert "a link is in its place" in said.stdout
    assert first.is_symlink() and second.read_text() == "my own notes"
    (beside,) = (file for file in pages(graded, ADA).iterdir() if "update" in file.name)
    assert b"read this" in beside.read_bytes()
    as_student(ADA, "rm", str(first), str(second))
    assert "Put the feedback" in graded.room.sudo("feedback", "ps1").stdout
    assert b"read this" in first.read_bytes()
    assert "nothing to do" in graded.room.sudo("feedback", "ps1").stdout


def test_a_full_home_fails_its_student_and_the_others_get_theirs(graded):
    graded.autograde("ps1", BOB)
    comment(graded, "once more")
    home = graded.room.home(ADA)
    owner = home.stat().st_uid
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=64k,mode=700,uid={owner},gid={owner}", "nbt", str(home)], check=True
    )
    try:
        said = graded.room.sudo("feedback", "ps1", expect=5)
    finally:
        subprocess.run(["umount", str(home)], check=True)
    assert f"{ADA} (disk full" in said.stderr
    assert sorted(os.listdir(pages(graded, BOB))) == PAGES
    assert b"once more" not in (pages(graded, ADA) / PAGES[0]).read_bytes()
    assert "into 1 home" in graded.room.sudo("feedback", "ps1").stdout
    assert b"once more" in (pages(graded, ADA) / PAGES[0]).read_bytes()


def test_a_locked_gradebook_is_waited_for_and_then_said(graded):
    holding = "import sqlite3, sys, time; book = sqlite3.connect('gradebook.db'); book.execute('BEGIN EXCLUSIVE'); "
    for seconds, expect in ((6, 0), (60, 1)):
        words = [str(graded.python), "-c", f"{holding}print(flush=True); time.sleep({seconds})"]
        line = ["setpriv", f"--reuid={graded.room.uid}", "--clear-groups", *words]
        with subprocess.Popen(line, cwd=graded.course, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            try:
                said = graded.room.sudo("grades", "ps1", expect=expect)
            finally:
                other.kill()
    assert "locked by another program, such as an open formgrader" in said.stderr


def test_grades_are_a_table_and_files_that_belong_to_the_teacher(graded):
    shown = graded.room.sudo("grades", "ps1").stdout
    assert ADA in shown and BOB in shown and "needs grading by hand" in shown
    assert "ps1 (of 13)" in graded.room.sudo("grades").stdout
    envelope.checked(graded.room.sudo("grades", "--json").stdout, 0, "grades")
    file = graded.room.folder / "grades.csv"
    assert str(file) in graded.room.sudo("grades", "ps1", "--csv", "grades.csv").stdout
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (graded.room.uid, 0o600)
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    assert [(row["username"], row["name"]) for row in rows] == [(ADA, f"Student {ADA}"), (BOB, f"Student {BOB}")]
    assert rows[0]["assignment"] == "ps1" and float(rows[0]["max_score"]) == 13
    assert graded.room.sudo("grades", "ps1", "--csv", "-").stdout.splitlines() == file.read_text().splitlines()
    moodle = graded.room.sudo("grades", "ps1", "--csv", "-", "--format", "moodle")
    assert moodle.stdout.splitlines()[0] == '"Email address","ID number",ps1' and "Moodle finds nobody" in moodle.stderr
    canvas = graded.room.sudo("grades", "ps1", "--csv", "-", "--format", "canvas", "--column", "ps1 (7)").stdout
    assert canvas.splitlines()[1] == '"    Points Possible",,,,,13'


@pytest.mark.parametrize("name", ["students.csv", "notebooks.cfg", "credentials.csv", "grading/gradebook.db"])
def test_grades_never_replace_an_input(graded, name):
    before = (graded.room.folder / name).read_bytes()
    assert "nothing was written" in graded.room.sudo("grades", "--csv", name, expect=3).stderr
    assert (graded.room.folder / name).read_bytes() == before


def test_grades_are_written_as_the_teacher_and_not_as_root(graded):
    place = graded.room.folder / "roots"
    place.mkdir(mode=0o755)
    said = graded.room.sudo("grades", "--csv", "roots/grades.csv", expect=1).stderr
    assert f"could not be written as {TEACHER}" in said
    assert os.listdir(place) == []


def test_a_student_who_left_keeps_the_grade_and_gets_no_page(graded):
    graded.room.write([ADA])
    try:
        said = graded.room.sudo("grades", "ps1")
        assert f"not on the roster: {BOB}" in said.stderr and "(not on the roster)" in said.stdout
    finally:
        graded.room.write([ADA, BOB])
