"""`grade ps1` gives nbgrader's own scores, grades what is new or changed, and goes on where it was killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import answers, envelope
from tests.graded import Graded, graded_class
from tests.grading_packages import install
from tests.running import eventually
from tests.taught import TEACHER, WORKER

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("builder")]

STUDENTS = [f"nbtm{WORKER}s{number:02}" for number in range(12)]
FEW = STUDENTS[:3]
FIRST = 56400 + 100 * WORKER
LIMITS = {"uid_range": f"{FIRST}-{FIRST + 99}", "seconds": 60, "memory": "400 MB", "disk": "50 MB"}
SCORES = (
    "{f'{one.student.id} {notebook.name} {grade.name}': [grade.auto_score, grade.needs_manual_grade] "
    "for one in book.find_assignment('ps1').submissions for notebook in one.notebooks for grade in notebook.grades}"
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Graded]:
    with graded_class() as made:
        made.room.write(STUDENTS, grading=LIMITS)
        made.room.sudo("setup")
        install(made)
        made.quickstart()
        made.as_teacher("nbgrader", "generate_assignment", "ps1")
        yield made


@pytest.fixture
def course(whole: Graded) -> Iterator[Graded]:
    """Nobody has handed in, and nothing is graded. Afterwards nothing is left on the host."""
    for folder in ("submitted", "autograded", ".nblauncher"):
        subprocess.run(["rm", "-rf", "--", str(whole.course / folder)], check=True)
    whole.room.write(STUDENTS, grading=LIMITS)
    before = jupyters_folders()
    yield whole
    assert left_behind(whole) == []
    assert jupyters_folders() <= before


def hand_in(course: Graded, students: list[str], **more: Any) -> None:
    for number, student in enumerate(students):
        answers.hand_in(course, student, answers.answered(answers.honest(number)), **more)


def grade(course: Graded, *arguments: str, expect: int = 0) -> dict[str, dict[str, Any]]:
    done = course.room.sudo("grade", "ps1", "--json", *arguments, expect=expect)
    envelope.checked(done.stdout, done.returncode, "grade")
    return {one["username"]: one for one in json.loads(done.stdout)["students"]}


def done(graded: dict[str, dict[str, Any]]) -> list[str]:
    return sorted(name for name, one in graded.items() if one["status"] == "done")


def jupyters_folders() -> set[Path]:
    """Temporary folders that jupyter_core makes where no configuration is to be read, and never removes."""
    return set(Path(tempfile.gettempdir()).glob("jupyter-clean-cfg-*"))


def left_behind(course: Graded) -> list[str]:
    """Processes, mounts and control groups of a grading."""
    uids = range(FIRST, FIRST + 100)
    found = [
        f"process {one.pid}"
        for one in psutil.process_iter(["uids"])
        if one.info["uids"] and one.info["uids"][0] in uids
    ]
    found += [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(course.room.paths.grading) in line
    ]
    name = f"{course.room.course}.grading"
    return found + [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/*{name}*") if path.is_dir()]


def test_scores_equal_those_of_plain_nbgrader(course, tmp_path_factory):
    hand_in(course, STUDENTS)
    plain = Graded(course.room)
    plain.course = course.room.folder / "plain"
    course.as_teacher("cp", "-a", str(course.course), str(plain.course), folder=course.room.folder)
    plain.as_teacher("nbgrader", "autograde", "ps1")
    graded = grade(course)
    assert done(graded) == STUDENTS and not [one for one in graded.values() if one["flags"] or one["failure"]]
    expected = plain.gradebook(SCORES)
    assert course.gradebook(SCORES) == expected
    assert len(expected) == 12 * 9 and {score for score, _ in expected.values()} >= {0, 0.5, 1}
    assert {name: graded[name]["score"] for name in STUDENTS} == {
        name: sum(score or 0 for key, (score, _) in expected.items() if key.startswith(name)) for name in STUDENTS
    }
    files = {path.relative_to(plain.course) for path in plain.course.glob("autograded/**/*")}
    assert {path.relative_to(course.course) for path in course.course.glob("autograded/**/*")} == files
    shutil.rmtree(plain.course)


def test_only_what_is_new_or_changed_is_graded(course):
    hand_in(course, FEW)
    assert done(grade(course)) == FEW
    before = grade(course)
    assert done(before) == [] and {before[name]["status"] for name in FEW} == {"unchanged"}
    assert "nothing to do" in course.room.sudo("grade", "ps1").stdout
    answers.hand_in(course, FEW[1], answers.answered(answers.ALL_RIGHT))
    after = grade(course)
    assert (done(after), after[FEW[1]]["score"]) == ([FEW[1]], 3.0)
    assert after[FEW[0]]["graded_at"] == before[FEW[0]]["graded_at"]
    assert done(grade(course, "--regrade", "--only", FEW[2])) == [FEW[2]]
    table = course.room.sudo("grade", "ps1", "--regrade", "--only", f"{FEW[0]},{STUDENTS[5]}").stdout
    assert f"{STUDENTS[5]}" in table and "nothing handed in" in table


def test_a_test_that_the_teacher_changes_is_a_reason_to_grade_again(course):
    hand_in(course, FEW)
    grade(course)
    source = course.course / "source/ps1/data.csv"
    course.as_teacher("cp", str(course.course / "nbgrader_config.py"), str(source))
    assert done(grade(course)) == FEW
    source.unlink()


@pytest.mark.parametrize("seconds", [0.7, 2.5, 5, 8])
def test_a_killed_grading_goes_on_with_the_next(course, seconds):
    hand_in(course, FEW)
    sudo = {"SUDO_USER": TEACHER, "SUDO_UID": str(course.room.uid), "SUDO_GID": str(course.room.uid)}
    process = course.room.start("grade", "ps1", env={**os.environ, **sudo})
    time.sleep(seconds)
    process.kill()
    process.communicate()
    eventually(lambda: left_behind(course) == [], 20)
    graded = grade(course)
    assert {name: graded[name]["score"] for name in FEW} == {FEW[0]: 3.0, FEW[1]: 1.5, FEW[2]: 0.5}, graded
    assert not [one["failure"] for one in graded.values() if one["failure"]]
    assert done(grade(course)) == []


def test_a_child_of_the_teacher_that_is_killed_costs_one_row_at_most(course):
    hand_in(course, STUDENTS)
    sudo = {"SUDO_USER": TEACHER, "SUDO_UID": str(course.room.uid), "SUDO_GID": str(course.room.uid)}
    process = course.room.start("grade", "ps1", "--json", env={**os.environ, **sudo})
    eventually(lambda: children_of_the_teacher(course), 60)[0].kill()
    answer = json.loads(process.communicate()[0])
    failed = {one["username"]: one["error"] for one in answer["students"] if one["status"] == "failed"}
    assert len(failed) <= 1 and all("teacher's child ended" in why for why in failed.values()), failed
    assert answer["exit_code"] == process.returncode == (5 if failed else 0)
    assert done(grade(course)) == list(failed)
    assert {one["status"] for one in grade(course).values()} == {"unchanged"}


def children_of_the_teacher(course: Graded) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["name", "uids"])
        if one.info["name"] == "grade-teacher" and one.info["uids"][0] == course.room.uid
    ]


def test_two_at_once(course):
    hand_in(course, FEW)
    lock = os.open(course.room.paths.state / "grading.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        refused = course.room.sudo("grade", "ps1", expect=None)
    finally:
        os.close(lock)
    assert refused.returncode == 6 and "another nblauncher is still" in " ".join(refused.stderr.split())
    assert done(grade(course)) == FEW


def test_a_locked_gradebook_costs_nothing(course):
    hand_in(course, FEW, when="2026-01-03 11:00:00.000000 UTC")
    with sqlite3.connect(course.course / "gradebook.db", isolation_level=None) as book:
        book.execute("BEGIN IMMEDIATE")
        refused = grade(course, expect=None)
        book.execute("ROLLBACK")
    for name in FEW:
        assert refused[name]["status"] == "failed", refused[name]
        assert "locked by another program" in refused[name]["error"]
    assert done(grade(course)) == FEW


def test_a_full_disk_of_the_teachers_costs_nothing(course):
    hand_in(course, FEW)
    place = course.course / "autograded"
    course.as_teacher("mkdir", str(place))
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=16k,uid={course.room.uid},mode=755", "none", str(place)], check=True
    )
    try:
        refused = grade(course, expect=None)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert all("No space left" in refused[name]["error"] for name in FEW), refused
    assert done(grade(course)) == FEW


def test_a_student_who_left_is_not_graded_and_nothing_is_lost(course):
    hand_in(course, FEW)
    course.room.sudo("remove", "--only", FEW[0], "--yes")
    assert done(grade(course)) == FEW[1:]
    assert (course.course / "submitted" / FEW[0] / "ps1/problem1.ipynb").exists()
    course.room.sudo("setup")
    assert done(grade(course)) == [FEW[0]]


def test_an_assignment_that_nobody_knows_is_refused(course):
    hand_in(course, FEW)
    refused = course.room.sudo("grade", "ps9", expect=None)
    assert refused.returncode == 3 and "nbgrader knows no assignment ps9 yet" in refused.stderr
    assert "send --assignment ps9" in refused.stderr
    refused = course.room.sudo("grade", "../ps1", expect=None)
    assert refused.returncode == 3 and "is not a folder of the material" in " ".join(refused.stderr.split())


def test_without_packages_that_grade_nothing_is_changed(course):
    there = course.room.paths.grading_environments
    there.rename(away := there.with_name(f"{there.name}-away"))
    try:
        refused = course.room.sudo("grade", "ps1", expect=None)
    finally:
        away.rename(there)
    assert "Run `nblauncher grade init` first" in refused.stderr
