"""Ctrl-C wherever it falls: the command stops, says what was done and exits 130, and the next run finishes the job."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.classroom import Classroom

pytestmark = pytest.mark.system

NAMES = ["nbtiada", "nbtibob", "nbticy"]
PORT = 18700
FIRST_UID = 26600

IN_FORK = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
def interrupt():
    global left
    left -= 1
    if left == 0:
        os.write(2, b"INTERRUPTED IN FORK\\n")
        os.kill(os.getpid(), signal.SIGINT)
os.register_at_fork(after_in_parent=interrupt)
runpy.run_module("nblauncher", run_name="__main__", alter_sys=True)
"""
"""Runs a command that gets SIGINT in the after-fork hooks of its n-th fork, where Python drops what is raised."""


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    made = Classroom("nbti-stop", NAMES, port=PORT, first_uid=FIRST_UID)
    try:
        yield made
    finally:
        made.close()


def interrupted(room: Classroom, fork: int, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", "-c", IN_FORK, str(fork), *words]
    done = subprocess.run(argv, cwd=room.folder, capture_output=True, text=True, timeout=240, check=False)
    assert "INTERRUPTED IN FORK" in done.stderr, done
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    "words",
    [("setup",), ("send",), ("launch", "--background"), ("retrieve",), ("remove", "--yes")],
    ids=lambda one: one[0],
)
def test_ctrl_c_in_the_middle_of_a_fork_stops_the_command(room, words):
    """In this order the commands find something to do."""
    if words == ("send",):
        (room.folder / "material" / "lab2.txt").write_text("measure it again\n")
    for fork in (1, 2, 3):
        done = interrupted(room, fork, *words)
        assert done.returncode == 130, done
        assert "nterrupted" in done.stdout + done.stderr
    assert room.run(*words).returncode == 0


def test_an_interrupted_run_answers_in_json_and_says_whom_it_did_not_reach(room):
    room.run("setup")
    (room.folder / "material" / "lab3.txt").write_text("and again\n")
    said = []
    for fork in (1, 3, 5):
        done = interrupted(room, fork, "send", "--json")
        said.append(json.loads(done.stdout))
        assert (done.returncode, said[-1]["exit_code"]) == (130, 130)
    assert (said[0]["status"], said[0]["students"]) == ("failed", [])
    assert "skipped" in {student["status"] for one in said for student in one["students"]}
