"""Every command's `--json` on a small class, held against tests/envelope.py: what was done, nothing to do, refusals."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from nblauncher import moments
from tests import envelope
from tests.classroom import Classroom
from tests.homework import as_student, write
from tests.running import eventually

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtfeada", "nbtfebob"]
EVE = "nbtfeeve"


class Envelopes(Classroom):
    """A class whose every answer is looked at."""

    def ask(self, form: str, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """Run the command with --json. `form`: as in tests/envelope.py, where the command's word alone does not say."""
        answer = self.run(*arguments, "--json", expect=expect)
        return envelope.checked(answer.stdout, expect, form, is_dry_run="--dry-run" in arguments)

    def students(self, *arguments: str, form: str = "", expect: int = 0) -> dict[str, dict[str, Any]]:
        asked = self.ask(form or arguments[0], *arguments, expect=expect)
        return {one["username"]: one for one in asked["students"]}

    def states(self, *arguments: str) -> dict[str, str]:
        return {name: one["server"] for name, one in self.students(*arguments).items()}


@pytest.fixture(scope="module")
def room() -> Iterator[Envelopes]:
    made = Envelopes("nbtfe1", NAMES, port=18830, first_uid=27260)
    yield made
    made.close()


@pytest.fixture(scope="module")
def up(room: Envelopes) -> Envelopes:
    """After setup and launch, which answer as they should."""
    for command in ("setup", "check"):
        room.ask(command, command, *(["--dry-run"] if command == "setup" else []), expect=0)
    students = room.students("setup")
    assert all(one["uid"] and one["files"] == 1 and one["changes"] for one in students.values())
    assert {one["uid"] for one in room.students("setup").values()} == {one["uid"] for one in students.values()}
    room.ask("launch", "launch", "--background", "--dry-run")
    assert room.states("launch", "--background") == {ADA: "ready", BOB: "ready"}
    assert room.states("launch", "--background") == {ADA: "ready", BOB: "ready"}
    return room


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def written(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


ACTING = ["setup", "send", "launch", "reload", "status", "retrieve", "snapshot", "freeze", "thaw", "shutdown", "remove"]


@pytest.mark.parametrize("command", [*ACTING, "deadlines"])
def test_who_is_not_there_is_a_refusal(up, command):
    assert EVE in up.ask(command, command, "--only", EVE, expect=3)["errors"][0]


@pytest.mark.parametrize("command", [one for one in ACTING if one != "status"])
def test_a_dry_run_has_a_plan_and_no_students(up, command):
    up.ask(command, command, "--dry-run")


@pytest.mark.parametrize(
    "form, words, code",
    [
        ("history NAME", ("history", EVE), 3),
        ("history NAME FILE", ("history", ADA, "../x"), 3),
        ("restore", ("restore", ADA, "lab1.txt", "--at", "2001-01-01 00:00"), 3),
        ("extend", ("extend", ADA, "15m"), 3),
        ("retrieve --cancel", ("retrieve", "--cancel", "nothing"), 3),
        ("retrieve --at", ("retrieve", "--at", "2001-01-01 00:00"), 3),
        ("retrieve --assignment", ("retrieve", "--assignment", "nothing"), 3),
        ("verify-receipt", ("verify-receipt", "notebooks.cfg"), 3),
        ("remove", ("remove", "--claim", EVE), 3),
        ("remove", ("remove",), 4),
    ],
)
def test_a_refusal_has_its_reason_and_nothing_else(up, form, words, code):
    answer = up.ask(form, *words, expect=code)
    assert answer["errors"] and not answer["students"]


def test_material_snapshots_and_history(up):
    (up.folder / "material" / "lab2.txt").write_text("measure it again\n")
    assert {one["files"] for one in up.students("send").values()} == {1}
    assert {one["status"] for one in up.students("send").values()} == {"unchanged"}
    write(ADA, "tutorial/lab.py", "one")
    up.students("snapshot")
    write(ADA, "tutorial/lab.py", "two")
    assert up.students("snapshot")[ADA]["changed"] == 1
    up.students("snapshot")
    first, *_ = up.ask("history NAME", "history", ADA)["snapshots"]
    assert len(up.ask("history NAME FILE", "history", ADA, "lab.py")["versions"]) == 2
    up.ask("history NAME FILE", "history", ADA, "none.py")
    path = up.ask("restore", "restore", ADA, "lab.py", "--at", first["time"])["path"]
    assert (up.home(ADA) / path).read_text() == "one"


def test_retrieving(up):
    write(ADA, "tutorial/ps1/lab.py", "one")
    write(BOB, "tutorial/ps1/large.bin", "x" * 2_000_000)
    up.write(retrieve={"target": "retrieved", "max_file": "1 MB"})
    assert up.students("retrieve", expect=5)[BOB]["exceptions"]
    up.write(retrieve={"target": "retrieved"})
    up.students("retrieve", "--all")
    up.students("retrieve")
    assert {one["status"] for one in up.students("retrieve").values()} == {"unchanged"}
    words = ("retrieve", "--assignment", "ps1")
    assert all(one["handed_in"] for one in up.students(*words, form="retrieve --assignment").values())
    away = up.home(BOB).with_name("nbtfe-away")
    up.home(BOB).rename(away)
    try:
        assert up.students("retrieve", expect=5)[BOB]["changed"] is None
        assert up.students(*words, form="retrieve --assignment", expect=5)[BOB]["handed_in"] is None
        up.students("retrieve", "--only", BOB, expect=1)
    finally:
        away.rename(up.home(BOB))


def test_who_is_frozen_is_shown_as_frozen(up):
    assert {one["status"] for one in up.students("freeze", "--only", ADA).values()} == {"done"}
    up.students("freeze", "--only", ADA)
    assert up.states("status") == {ADA: "frozen", BOB: "ready"}
    assert "until `nblauncher thaw`" in up.students("status")[ADA]["reason"]
    assert up.states("launch", "--background") == {ADA: "frozen", BOB: "ready"}
    told = up.run("status").stdout
    assert "1 frozen, 1 ready" in told and f"{ADA}  frozen" in told
    up.students("thaw")
    up.students("thaw")
    assert up.states("status") == {ADA: "ready", BOB: "ready"}


def test_a_capture_names_those_who_have_more_time(up):
    (up.folder / "students.csv").write_text(f"username,extra_time\n{ADA},\n{BOB},10m\n")
    up.students("reload")
    at = soon(600)
    words = ("retrieve", "--at", written(at))
    assert any(BOB in line for line in up.ask("retrieve --at", *words, "--dry-run")["plan"])
    said = up.ask("retrieve --at", *words)
    (later,) = said["later"]
    assert (later["username"], datetime.fromisoformat(later["at"])) == (BOB, at + timedelta(minutes=10))
    assert {one["deadlines"][0]["extra_seconds"] for one in up.students("deadlines").values()} == {0, 600}
    assert datetime.fromisoformat(up.ask("extend", "extend", ADA, "5m")["at"]) == at + timedelta(minutes=5)
    assert up.ask("retrieve --cancel", "retrieve", "--cancel", said["deadline"])["deadline"] == said["deadline"]
    told = up.run(*words).stdout
    assert f"later, at {moments.words(at + timedelta(minutes=10))}: {BOB}." in told
    up.ask("retrieve --cancel", "retrieve", "--cancel", said["deadline"])


def test_a_class_that_was_shut_down(up):
    (up.folder / "students.csv").write_text(f"username,extra_time\n{ADA},\n{BOB},10m\n{EVE},\n")
    assert up.students("reload")[EVE]["files"] > 0
    up.students("shutdown", "--only", ADA)
    assert up.students("shutdown", "--only", ADA)[ADA]["server"] == "stopped"
    up.students("shutdown")
    assert {one["server"] for one in up.students("shutdown").values()} == {"stopped"}
    assert up.ask("reload", "reload", expect=4)["errors"]
    up.students("status")


def waiting(room: Envelopes, at: datetime) -> subprocess.Popen[str]:
    """`retrieve --at --json` of a class that does not run."""
    process = room.start("retrieve", "--at", written(at), "--json")
    assert process.stderr is not None
    while "waiting here" not in process.stderr.readline():
        assert process.poll() is None
    return process


def test_an_interruption_has_its_answer(up):
    process = waiting(up, soon(600))
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=60)
    assert envelope.checked(out, process.returncode, "retrieve --at")["exit_code"] == 130


def test_a_course_that_is_busy_is_a_refusal(up):
    with (up.paths.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (up.folder / "material" / "lab3.txt").write_text("and again\n")
        up.ask("send", "send", expect=6)


def test_a_waiting_capture_that_comes_late_says_so_in_its_json_as_well(up):
    (up.folder / "students.csv").write_text(f"username\n{ADA}\n{BOB}\n{EVE}\n")
    up.students("setup")
    at = soon(3)
    process = waiting(up, at)
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: datetime.now().astimezone() > at + timedelta(seconds=11))
    process.send_signal(signal.SIGCONT)
    out, _err = process.communicate(timeout=120)
    said = envelope.checked(out, process.returncode, "retrieve --at")
    assert (process.returncode, said["status"], len(said["errors"])) == (5, "partial", 3)
    assert {one["late"] for one in said["students"]} == {True}
    (receipt, *_) = sorted((up.home(ADA) / "receipts").glob("*.json"))
    about = up.ask("verify-receipt", "verify-receipt", str(receipt))["receipt"]
    assert about["username"] == ADA
    assert json.loads(receipt.read_text())["files"] == about["files"]
    assert {one["deadlines"][0]["state"] for one in up.students("status").values()} == {"late"}


def test_an_incomplete_student_is_kept_and_the_others_are_removed(up):
    as_student(BOB, "sh", "-c", "echo x > secret; truncate -s 1G hole")
    answer = up.students("remove", "--yes", "--only", f"{ADA},{EVE}")
    assert all(one["deleted"] for one in answer.values())
    up.students("remove", "--yes", expect=5)
    up.students("remove", "--yes", "--despite-incomplete", BOB)
    up.write([])
    up.ask("check", "check", expect=1)
