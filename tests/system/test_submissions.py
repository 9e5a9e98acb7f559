"""`retrieve --assignment` fills `submitted` of the graded course, with root's time and under the right names."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.homework import as_student, write
from tests.notebooks import cell, notebook
from tests.taught import ADA, BOB, NAMES, Taught, taught_class

pytestmark = pytest.mark.system

_MADE = [0]
"""Assignments so far: each test has one of its own, because what a student deleted is not handed out again."""


def ps() -> str:
    return f"ps{_MADE[0]}"


def own() -> str:
    return f"tutorial/{ps()}"


def problem(number: int, answer: str = "# YOUR CODE HERE") -> str:
    """As nbgrader releases it; the answer is the student's."""
    graded = {"grade": True, "solution": False, "locked": True, "schema_version": 3, "points": 2}
    solved = {"grade": False, "solution": True, "locked": False, "schema_version": 3}
    return notebook(
        cell(answer, f"solution{number}", nbgrader={**solved, "grade_id": f"problem{number}-solution"}),
        cell("assert f(2) == 4", f"tests{number}", nbgrader={**graded, "grade_id": f"problem{number}-tests"}),
    ).decode()


@pytest.fixture(scope="module")
def whole() -> Iterator[Taught]:
    with taught_class() as room:
        yield room


@pytest.fixture
def room(whole) -> Taught:
    """With a graded course that was made by nbgrader, and an assignment of two notebooks handed out."""
    _MADE[0] += 1
    whole.write(deadlines={})
    subprocess.run(["rm", "-rf", "--", str(whole.folder / "grading")], check=True)
    release = whole.folder / "grading/release" / ps()
    release.mkdir(parents=True)
    (whole.folder / "grading/nbgrader_config.py").write_text("c = get_config()\n")
    for number in (1, 2):
        (release / f"problem{number}.ipynb").write_text(problem(number))
        whole.teach(f"{ps()}/problem{number}.ipynb", problem(number))
    whole.teach(f"{ps()}/data.csv", "1,2\n")
    whole.sudo("send")
    return whole


def submitted(room: Taught, name: str) -> Path:
    return room.folder / "grading/submitted" / name / ps()


def record(room: Taught, name: str) -> dict[str, Any]:
    return json.loads((room.folder / "grading/.nblauncher" / ps() / f"{name}.submission.json").read_text())


def retrieve(room: Taught) -> dict[str, dict[str, Any]]:
    found = room.sudo_json("retrieve", "--assignment", ps())
    return {name: found[name]["submission"] for name in NAMES if name in found}


def stamp(room: Taught, name: str) -> datetime:
    text = (submitted(room, name) / "timestamp.txt").read_text()
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f UTC\n").replace(tzinfo=timezone.utc)


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def capture(room: Taught, at: datetime) -> None:
    room.write(deadlines={ps(): f"{at:%Y-%m-%d %H:%M:%S}"})
    room.sudo("setup")
    room.run("retrieve", "--unattended", room.course)


def test_without_a_graded_course_nothing_changes(room):
    subprocess.run(["rm", "-rf", str(room.folder / "grading")], check=True)
    (room.folder / "grading").mkdir()
    room.hand_over()
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    assert retrieve(room) == {ADA: None, BOB: None}
    assert list((room.folder / "grading").iterdir()) == []
    assert "Submissions" not in room.sudo("retrieve", "--assignment", ps()).stdout


def test_what_was_handed_in_is_submitted_as_the_teachers_own_copy(room):
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    write(ADA, f"{own()}/.ipynb_checkpoints/problem1-checkpoint.ipynb", problem(1, "41"))
    told = retrieve(room)
    assert (told[ADA]["state"], told[BOB]["state"]) == ("new", "nothing")
    assert not submitted(room, BOB).parent.exists()
    names = {"problem1.ipynb", "problem2.ipynb", "data.csv", "timestamp.txt"}
    assert {file.name for file in submitted(room, ADA).iterdir()} == names
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == problem(1, "42")
    assert abs(datetime.now(timezone.utc) - stamp(room, ADA)) < timedelta(minutes=1)
    for path in (submitted(room, ADA).parent, submitted(room, ADA), *submitted(room, ADA).iterdir()):
        status = path.stat()
        assert status.st_uid == room.uid, path
        assert stat.S_IMODE(status.st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert path.is_dir() or status.st_nlink == 1, path
    about = record(room, ADA)
    assert about["version"] == 1 and datetime.fromisoformat(about["timestamp"]) == stamp(room, ADA)
    assert (about["due"], about["due_class"], about["late_seconds"], about["renamed"]) == (None, None, 0.0, {})
    assert about["retrieval"].endswith(f"-{ps()}")


def test_a_renamed_and_a_moved_notebook_are_found_again(room):
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    as_student(ADA, "mkdir", f"{own()}/done")
    as_student(ADA, "mv", f"{own()}/problem1.ipynb", f"{own()}/done/Ada 1.ipynb")
    as_student(ADA, "mv", f"{own()}/problem2.ipynb", f"{own()}/p2.json")
    told = retrieve(room)[ADA]
    assert told["renamed"] == {"problem1.ipynb": "done/Ada 1.ipynb", "problem2.ipynb": "p2.json"}
    assert (told["others"], told["missing"]) == ([], [])
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == problem(1, "42")
    assert (submitted(room, ADA) / "problem2.ipynb").read_text() == problem(2)
    assert not (submitted(room, ADA) / "done").exists()
    assert record(room, ADA)["renamed"] == told["renamed"]
    said = " ".join(room.sudo("retrieve", "--assignment", ps()).stdout.split())
    assert "problem1.ipynb was done/Ada 1.ipynb" in said and "1 unchanged" in said


def test_of_several_candidates_the_right_name_wins_and_the_others_are_named(room):
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    write(ADA, f"{own()}/problem1-Copy1.ipynb", problem(1, "43"))
    as_student(BOB, "mv", f"{own()}/problem1.ipynb", f"{own()}/a.ipynb")
    write(BOB, f"{own()}/b.ipynb", problem(1, "newer"))
    as_student(BOB, "touch", "-d", "2020-01-01", f"{own()}/a.ipynb")
    as_student(BOB, "rm", f"{own()}/problem2.ipynb")
    told = retrieve(room)
    assert (told[ADA]["renamed"], told[ADA]["others"]) == ({}, ["problem1-Copy1.ipynb"])
    assert (submitted(room, ADA) / "problem1-Copy1.ipynb").read_text() == problem(1, "43")
    assert (told[BOB]["renamed"], told[BOB]["others"]) == ({"problem1.ipynb": "b.ipynb"}, ["a.ipynb"])
    assert told[BOB]["missing"] == ["problem2.ipynb"]
    assert (submitted(room, BOB) / "problem1.ipynb").read_text() == problem(1, "newer")
    assert (submitted(room, BOB) / "a.ipynb").read_text() == problem(1)


def test_the_same_work_keeps_its_time_and_newer_work_replaces_it(room):
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    retrieve(room)
    first, inode = stamp(room, ADA), submitted(room, ADA).stat().st_ino
    assert retrieve(room)[ADA]["state"] == "unchanged"
    assert (stamp(room, ADA), submitted(room, ADA).stat().st_ino) == (first, inode)
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "43"))
    told = retrieve(room)[ADA]
    assert (told["state"], told["kept"]) == ("replaced", None)
    assert stamp(room, ADA) > first
    assert [one.name for one in submitted(room, ADA).parent.iterdir()] == [ps()]
    as_student(ADA, "sh", "-c", f"rm -r {own()}/*")
    told = retrieve(room)[ADA]
    assert told["state"] == "kept" and datetime.fromisoformat(told["time"]) == stamp(room, ADA)
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == problem(1, "43")


def test_what_the_teacher_edited_is_never_lost(room):
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    retrieve(room)
    (submitted(room, ADA) / "problem1.ipynb").write_text("the teacher's")
    assert retrieve(room)[ADA]["state"] == "unchanged"
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == "the teacher's"
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "43"))
    told = retrieve(room)[ADA]
    assert told["state"] == "replaced"
    assert (room.folder / "grading" / told["kept"] / "problem1.ipynb").read_text() == "the teacher's"
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == problem(1, "43")


def test_in_time_is_what_was_captured_and_an_extension_is_written_down(room):
    for name in NAMES:
        write(name, f"{own()}/problem1.ipynb", problem(1, "in time"))
    at = soon(2)
    capture(room, at)
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "too late"))
    told = room.sudo_json("retrieve", "--assignment", ps())
    assert [told[name]["late"] for name in NAMES] == [True, False]
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == problem(1, "in time")
    assert stamp(room, ADA) == at  # what was in time had not changed since, however long freezing the class takes
    about = record(room, ADA)
    assert [datetime.fromisoformat(about[key]) for key in ("due", "due_class")] == [at, at]
    assert about["late_seconds"] == 0
    before = stamp(room, ADA)
    room.sudo("extend", ADA, "1d")
    assert retrieve(room)[ADA]["state"] == "unchanged"
    about = record(room, ADA)
    assert datetime.fromisoformat(about["due"]) == at + timedelta(days=1)
    assert (datetime.fromisoformat(about["due_class"]), about["late_seconds"]) == (at, 0.0)
    assert stamp(room, ADA) == before and datetime.fromisoformat(record(room, BOB)["due"]) == at


@pytest.mark.parametrize("name", ["problem1.ipynb", "mine.ipynb"])
@pytest.mark.parametrize("content", ["not JSON", "[" * 50_000, '{"cells": [1]}', problem(1) * 2, ""])
def test_what_is_not_a_notebook_is_handed_on_as_it_is(room, name, content):
    as_student(ADA, "rm", f"{own()}/problem1.ipynb")
    write(ADA, f"{own()}/{name}", content)
    assert retrieve(room)[ADA]["state"] == "new"
    assert content in [file.read_text() for file in submitted(room, ADA).glob("*.ipynb")]


def test_a_folder_or_a_time_stamp_of_the_students_does_not_disturb_the_place(room):
    write(ADA, f"{own()}/timestamp.txt", "1999-01-01 00:00:00.000000 UTC")
    as_student(ADA, "sh", "-c", f"cd {own()}; mv problem1.ipynb x; mkdir problem1.ipynb; mv x problem1.ipynb/x.ipynb")
    write(ADA, f"{own()}/problem1.ipynb/more.txt", "more")
    as_student(ADA, "ln", "-s", "/etc/passwd", f"{own()}/problem3.ipynb")
    retrieve(room)
    assert stamp(room, ADA).year > 2020
    assert (submitted(room, ADA) / "timestamp (the student's).txt").read_text().startswith("1999")
    assert (submitted(room, ADA) / "problem1.ipynb").read_text() == problem(1)
    assert (submitted(room, ADA) / "problem1 (the student's).ipynb/more.txt").read_text() == "more"
    assert not os.path.lexists(submitted(room, ADA) / "problem3.ipynb")


def test_a_huge_notebook_is_handed_on_and_not_read(room):
    as_student(ADA, "rm", f"{own()}/problem1.ipynb")
    as_student(ADA, "sh", "-c", f"head -c 60000000 /dev/zero | tr '\\0' '[' > {own()}/mine.ipynb")
    told = retrieve(room)[ADA]
    assert (told["state"], told["missing"]) == ("new", ["problem1.ipynb"])
    assert (submitted(room, ADA) / "mine.ipynb").stat().st_size == 60_000_000


def test_a_submitted_folder_that_cannot_be_used_costs_one_student(room):
    for name in NAMES:
        write(name, f"{own()}/problem1.ipynb", problem(1, "42"))
    (room.folder / "grading/submitted").mkdir()
    (room.folder / "grading/submitted" / ADA).write_text("not a folder")
    room.hand_over()
    told = room.sudo_json("retrieve", "--assignment", ps(), expect=5)
    assert (told[ADA]["status"], told[ADA]["submission"]["state"]) == ("done", "failed")
    assert "not put into submitted" in told[ADA]["exceptions"][0]["reason"]
    assert told[BOB]["submission"]["state"] == "new"
    assert "NOT PUT into submitted" in " ".join(room.sudo("retrieve", "--assignment", ps(), expect=5).stdout.split())


def test_a_link_to_a_retrieval_stays_the_teachers(room):
    write(ADA, f"{own()}/problem1.ipynb", problem(1, "42"))
    (room.folder / "grading/submitted").symlink_to(room.folder / "elsewhere")
    told = room.sudo("retrieve", "--assignment", ps())
    assert "is a link and stays as it is" in told.stderr
    assert not (room.folder / "elsewhere").exists()
