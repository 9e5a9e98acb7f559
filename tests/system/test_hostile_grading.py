"""Submissions that attack their grading: none gets more than its own score, none costs more than its own row."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import answers, hostile_answers
from tests.answers import Notebook
from tests.graded import Graded, graded_class
from tests.grading_packages import install
from tests.hostile_answers import Attack
from tests.system.test_grading import grade, left_behind
from tests.taught import TEACHER, WORKER

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("builder")]

STUDENTS = [f"nbtm{WORKER}s{number:02}" for number in range(22)]
HONEST = STUDENTS[:2]
FIRST = 56400 + 100 * WORKER
LIMITS = {
    "uid_range": f"{FIRST}-{FIRST + 99}",
    "seconds": 15,
    "memory": "400 MB",
    "disk": "50 MB",
    "output": "1 MB",
    "processes": 64,
}
PORT = 27295


@pytest.fixture(scope="module")
def course() -> Iterator[Graded]:
    """The host listens as a host does, and a neighbour has handed in."""
    with graded_class() as made, socket.socket(socket.AF_UNIX) as abstract, socket.create_server(("", PORT)):
        abstract.bind("\0nbt-grading-host")
        abstract.listen()
        made.room.write(STUDENTS, grading=LIMITS)
        made.room.sudo("setup")
        install(made)
        made.quickstart()
        made.as_teacher("nbgrader", "generate_assignment", "ps1")
        yield made


@pytest.mark.parametrize("group", ["FLOODS", "READS", "SHADOWS", "ENDS", "FORGES", "NOTEBOOKS", "FILES"])
def test_an_attack_costs_one_row(course, group):
    subprocess.run(["rm", "-rf", "--", str(course.course / "submitted")], check=True)
    attacks: Mapping[str, Attack] = getattr(hostile_answers, group)
    students = dict(zip(STUDENTS[len(HONEST) :], attacks.items(), strict=False))
    assert len(students) == len(attacks)
    for student, (_name, attack) in students.items():
        attack.prepare(answers.hand_in(course, student, fitted(course, attack), files=attack.files))
    for student in HONEST:
        answers.hand_in(course, student, answers.answered(answers.ALL_RIGHT))
    course.room.hand_over()
    graded = grade(course, "--regrade", "--only", ",".join([*students, *HONEST]), expect=None)
    wrong = [
        f"{name}: {words}"
        for student, (name, attack) in students.items()
        for words in differences(course, student, attack, graded[student])
    ]
    assert wrong == []
    for student in HONEST:
        assert (graded[student]["score"], graded[student]["flags"], graded[student]["failure"]) == (3.0, [], None)
    assert left_behind(course) == []


def fitted(course: Graded, attack: Attack) -> answers.Change:
    places = {"COURSE": str(course.course), "TEACHER": f"/home/{TEACHER}", "PORT": str(PORT)}
    places["SOCKET"] = str(course.room.paths.grading / "judges")

    def change(notebook: Notebook) -> None:
        attack.change(notebook)
        for one in notebook["cells"]:
            if isinstance(one["source"], str):
                for word, place in places.items():
                    one["source"] = one["source"].replace(word, place)

    return change


def differences(course: Graded, student: str, attack: Attack, row: Mapping[str, Any]) -> Iterator[str]:
    """From what was to become of it."""
    text = json.dumps([row["warnings"], row["flags"], row["failure"], row["error"]])
    is_graded = row["failure"] is None and row["error"] is None
    if row["status"] != "done" or is_graded != attack.is_graded:
        yield f"status {row['status']}, {text}"
    elif is_graded and row["score"] != attack.score:
        yield f"score {row['score']}, {text}"
    if json.dumps(attack.said)[1:-1] not in text:
        yield f"nobody said {attack.said}: {text}"
    file = course.course / "autograded" / student / "ps1/problem1.ipynb"
    if is_graded and file.exists():
        yield from successes(file)


def successes(file: Path) -> Iterator[str]:
    for one in json.loads(file.read_bytes())["cells"]:
        for output in one.get("outputs", []):
            printed = "".join(output.get("text", ""))
            yield from (line[:200] for line in printed.splitlines() if line.startswith("SUCCESS"))
