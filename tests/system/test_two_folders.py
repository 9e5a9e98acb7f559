"""Two folders whose configs name the same course: the second one must not stop or delete the first one's class."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.classroom import Classroom

pytestmark = pytest.mark.system

ADA = "nbtfoada"


@pytest.fixture
def room() -> Iterator[Classroom]:
    made = Classroom("nbtfo-course", [ADA], port=18740, first_uid=26700)
    yield made
    made.close()


@pytest.fixture
def copy(room: Classroom) -> Iterator[Path]:
    """A scratch copy of the teacher's folder."""
    folder = room.folder.with_name(f"{room.folder.name}-copy")
    shutil.copytree(room.folder, folder)
    yield folder
    shutil.rmtree(folder)


ACTING = ["setup", "send", "launch", "reload", "status", "retrieve", "shutdown", "remove", "snapshot", "freeze"]


@pytest.mark.parametrize("command", ACTING)
def test_another_folder_with_the_same_course_is_refused_and_told_what_to_do(room, copy, command):
    room.run("setup")
    answer = room.run(command, "--yes", cwd=copy, expect=4)
    assert f"{room.folder}/notebooks.cfg" in answer.stderr and f"{copy}/notebooks.cfg" in answer.stderr
    assert "another name" in answer.stderr and "setup --take-over" in answer.stderr
    assert not (copy / "credentials.csv").exists() and not (copy / "retrieved").exists()
    assert room.run("setup").stdout == "setup: nothing to do.\n"


def test_the_same_place_by_another_way_is_the_same(room, copy):
    room.run("setup")
    link = copy / "link.cfg"
    link.symlink_to(room.folder / "notebooks.cfg")
    for way in (
        f"../{room.folder.name}/notebooks.cfg",
        str(room.folder / "." / ".." / room.folder.name / "notebooks.cfg"),
    ):
        assert room.run("-c", way, "setup", cwd=copy).stdout == "setup: nothing to do.\n"


def test_taking_over_is_a_decision_of_its_own(room, copy):
    room.run("setup")
    room.run("setup", "--take-over", cwd=copy)
    assert room.run("setup", cwd=copy).stdout == "setup: nothing to do.\n"
    assert str(copy) in room.run("setup", expect=4).stderr
    room.run("setup", "--take-over")
