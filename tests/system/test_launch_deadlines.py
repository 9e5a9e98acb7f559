"""A running class: its supervisor has snapshots and captures made, and its front page says when deadlines are."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import httpx
import psutil
import pytest

from tests.classroom import Classroom, set_up_class
from tests.homework import write
from tests.running import eventually

pytestmark = [pytest.mark.system, pytest.mark.slow]  # each waits for a moment

ADA, BOB = NAMES = ["nbtuada", "nbtubob"]
PORT = 18620


@pytest.fixture
def room() -> Iterator[Classroom]:
    with set_up_class("nbtu1", NAMES, port=PORT, first_uid=31500) as made:
        yield made


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def written(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def captured(room: Classroom, name: str = ADA) -> list[dict]:
    found = sorted((room.folder / "retrieved").glob(f"2*/{name}/manifest.json"))
    return [json.loads(file.read_text()) for file in found]


def front_page(room: Classroom) -> str:
    return httpx.get(f"https://localhost:{PORT}/", verify=str(room.paths.tls / "ca.pem")).text


def signed_in(room: Classroom, name: str) -> str:
    """The page that a right password leads to."""
    password = room.credentials[name]["notebook_password"]
    form, ca = {"username": name, "password": password}, str(room.paths.tls / "ca.pem")
    return httpx.post(f"https://localhost:{PORT}/", data=form, verify=ca).text


def test_the_supervisor_has_the_work_captured_and_students_know_when(room):
    write(ADA, "tutorial/ps1/lab.py", "in time")
    at = soon(25)
    room.write(deadlines={"ps1": written(at)})
    room.run("launch", "--background")
    assert "Deadline for ps1" in front_page(room) and at.strftime("%H:%M") in front_page(room)
    assert "What is saved by then counts" in front_page(room)
    assert "Nothing to do" in room.run("launch", "--background").stdout
    eventually(lambda: captured(room), patience=60)
    (about,) = captured(room)
    assert about["deadline"]["late"] is False
    assert timedelta(0) <= datetime.fromisoformat(about["deadline"]["captured"]) - at < timedelta(seconds=10)
    eventually(lambda: (room.home(ADA) / "receipts").exists(), patience=20)
    eventually(lambda: "Deadline" not in front_page(room), patience=30)
    assert room.json("status")["students"][0]["server"] == "ready"  # who was frozen goes on


def test_retrieve_at_leaves_it_to_the_supervisor_and_a_new_deadline_comes_with_reload(room):
    room.run("launch", "--background")
    assert "Deadline" not in front_page(room)
    write(ADA, "tutorial/lab.py", "x")
    at = soon(6)
    began = time.monotonic()
    told = room.run("retrieve", "--at", written(at)).stdout
    assert "is captured at" in told and "UTC" in told
    assert time.monotonic() - began < 5
    eventually(lambda: captured(room), patience=60)
    room.write(deadlines={"ps2": written(soon(3600))})
    room.run("reload")
    eventually(lambda: "Deadline for ps2" in front_page(room), patience=10)
    assert "has until" in room.run("extend", ADA, "10m").stdout


def test_who_has_more_time_sees_it_after_signing_in_and_nobody_else_does(room):
    at = soon(3600)
    room.write(deadlines={"ps1": written(at)})
    (room.folder / "students.csv").write_text(f"username,extra_time\n{ADA},30 min\n{BOB},\n")
    room.run("setup")
    room.run("launch", "--background")
    assert "Your own deadline for ps1" in signed_in(room, ADA)
    assert f"{at + timedelta(minutes=30):%H:%M}" in signed_in(room, ADA)
    assert "Your own deadline" not in signed_in(room, BOB) + front_page(room)
    room.run("extend", BOB, "15m")
    assert f"{at + timedelta(minutes=15):%H:%M}" in signed_in(room, BOB)
    assert "Your own deadline" not in front_page(room)


def test_a_moment_that_was_missed_is_done_at_the_next_launch(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    room.write(deadlines={"ps1": written(soon(-120))})
    room.run("launch", "--background")
    eventually(lambda: captured(room), patience=60)
    assert captured(room)[0]["deadline"]["late"] is True


def waiting(room: Classroom) -> list[int]:
    """Commands that the supervisor started for a moment to come."""
    words = ["retrieve", "--unattended", room.course]
    return [one.pid for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [])[-3:] == words]


def test_a_capture_that_is_asked_for_while_a_later_one_waits_is_in_time(room):
    for folder in ("ps1", "ps2"):
        write(ADA, f"tutorial/{folder}/lab.py", "x")
    room.write(deadlines={"ps1": written(soon(200))})
    room.run("launch", "--background")
    eventually(lambda: waiting(room), patience=30)
    at = soon(15)
    room.run("retrieve", "--at", written(at), "--assignment", "ps2")
    eventually(lambda: captured(room), patience=60)
    (about,) = captured(room)
    assert (about["deadline"]["deadline"], about["deadline"]["late"]) == ("ps2", False)
    assert datetime.fromisoformat(about["deadline"]["at"]) == at


def test_a_waiting_command_that_is_killed_costs_no_moment(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    at = soon(45)
    room.write(deadlines={"ps1": written(at)})
    room.run("launch", "--background")
    eventually(lambda: waiting(room), patience=30)
    (pid,) = waiting(room)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: captured(room), patience=90)
    assert [one["deadline"]["late"] for one in captured(room)] == [False]


def test_a_class_that_was_shut_down_captures_nothing_and_the_next_launch_says_so_and_does_it(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    at = soon(30)
    room.write(deadlines={"ps1": written(at)})
    room.run("launch", "--background")
    room.run("retrieve", "--at", written(soon(600)), "--assignment", "ps2")
    eventually(lambda: waiting(room), patience=30)
    told = room.run("shutdown")
    assert "cancel the capture of ps2" in told.stderr
    eventually(lambda: not waiting(room), patience=20)
    eventually(lambda: datetime.now().astimezone() > at + timedelta(seconds=11), patience=60)
    assert captured(room) == []
    assert room.json("status")["students"][0]["deadlines"][0]["state"] == "not captured"
    told = room.run("launch", "--background")
    assert "deadline ps1 is past" in told.stderr and "was not captured then" in told.stderr
    eventually(lambda: captured(room), patience=60)
    assert [(one["deadline"]["deadline"], one["deadline"]["late"]) for one in captured(room)] == [("ps1", True)]


def test_more_time_afterwards_is_captured_by_the_running_class(room):
    write(ADA, "tutorial/ps1/lab.py", "before")
    at = soon(40) - timedelta(minutes=10)
    room.write(deadlines={"ps1": written(at)})
    room.run("launch", "--background")
    eventually(lambda: captured(room), patience=60)
    write(ADA, "tutorial/ps1/lab.py", "after the flu")
    room.run("extend", ADA, "10m")
    eventually(lambda: len(captured(room)) == 2, patience=90)
    assert [one["deadline"]["late"] for one in captured(room)] == [True, False]
    assert len(captured(room, BOB)) == 1


def test_snapshots_are_taken_while_the_class_runs(room):
    room.write(history={"every": 1})
    write(ADA, "tutorial/lab.py", "x")
    room.run("launch", "--background")
    eventually(lambda: json.loads(room.run("history", ADA, "--json").stdout)["snapshots"], patience=90)
