"""check on the real host: what setup or launch would refuse it says first, also to somebody who is not root."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.classroom import COMMAND, Classroom

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtckada", "nbtckbob"]
GROUP = "nbtckgroup"


@pytest.fixture
def room() -> Iterator[Classroom]:
    made = Classroom("nbtck", NAMES, port=18820, first_uid=26850)
    yield made
    made.close()


@pytest.fixture
def group() -> Iterator[str]:
    subprocess.run(["groupadd", "--system", GROUP], check=True)
    yield GROUP
    subprocess.run(["groupdel", GROUP], check=True)


def problems(said: dict[str, Any]) -> dict[str, str]:
    return {one["message"]: one["subject"] for one in said["findings"] if one["level"] == "problem"}


def as_nobody(room: Classroom) -> dict[str, Any]:
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "PATH=/usr/bin:/bin"]
    command = [*drop, *COMMAND, "check", "--json"]
    return json.loads(subprocess.run(command, cwd=room.folder, capture_output=True, text=True, check=False).stdout)


def test_a_class_that_can_start_is_said_to_be_ready(room):
    said = room.json("check")
    assert problems(said) == {} and said["verdict"].startswith("Ready")
    assert room.run("check").stdout.splitlines()[-1].startswith("Ready")


def test_the_name_of_a_system_group_is_refused_before_anything_is_made(room, group):
    room.write([*NAMES, group])
    words = f'"{group}" is the name of a group of this host'
    said = room.json("check", expect=1)
    assert [one for one in problems(said) if words in one] and said["verdict"].startswith("1 problem: ")
    assert words in room.run("setup", expect=3).stderr
    assert not {entry.pw_name for entry in pwd.getpwall()} & {*NAMES, group}
    assert not (room.folder / "credentials.csv").exists()
    assert [one for one in problems(as_nobody(room)) if words in one]


def test_everything_that_setup_would_refuse_is_a_problem_and_hides_nothing_else(room):
    home = Path("/home", ADA)
    home.mkdir()
    try:
        (room.folder / "credentials.csv").write_text("these are no credentials\n")
        (room.folder / "requirements.txt").write_text("numpy\npandas = 2\n")
        room.write(
            material={"source": "gone", "target": "tutorial"},
            notebook={"requirements": "requirements.txt"},
            profile="nbt-no-such-profile",
        )
        said = room.json("check", expect=1)
    finally:
        home.rmdir()
    found = problems(said)
    for words, subject in (
        (f"the material folder {room.folder}/gone does not exist", "material"),
        ("requirements.txt line 2", "roster and config"),
        ("the IPython profile nbt-no-such-profile cannot be read", "profile"),
        (f"{room.folder}/credentials.csv cannot be written", "credentials"),
        (f"{home} exists already", "homes"),
    ):
        assert [where for message, where in found.items() if message.startswith(words)] == [subject], found
    assert any(one["subject"] == "ports" and one["level"] == "ok" for one in said["findings"])
    assert said["verdict"].startswith(f"{len(found)} problems: setup or launch would refuse.")


def test_another_folders_course_is_a_problem(room, tmp_path):
    room.run("setup")
    copy = tmp_path / "notebooks.cfg"
    copy.write_text((room.folder / "notebooks.cfg").read_text())
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(0o755 if folder.stat().st_mode & 0o1000 == 0 else 0o1777)
    answer = room.json("check", str(room.folder / "students.csv"), str(copy), expect=1)
    assert [one for one in problems(answer) if one.startswith("course nbtck of this host was set up with")]


def test_who_is_not_root_hears_nothing_wrong_of_the_class_that_runs(room):
    room.run("setup")
    room.run("launch", "--background")
    said = as_nobody(room)
    assert problems(said) == {}
    assert [one for one in said["findings"] if one["subject"] in ("ports", "uid range") and one["level"] != "ok"] == []
    assert "Without root" in said["verdict"]
