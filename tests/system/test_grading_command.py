"""grading.command: the teacher's own program grades each submission, confined, and there is no nbgrader anywhere."""

from __future__ import annotations

import json
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.forkserver.requests import Place
from nblauncher.grading.by_command import program
from nblauncher.isolation import spawn
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account, Handle
from nblauncher.system import processes
from tests import envelope
from tests.homework import write
from tests.running import eventually
from tests.taught import ADA, BOB, NAMES, Taught, taught_class

pytestmark = [pytest.mark.system, pytest.mark.group("grading-command")]

TESTS = """
import json, os, sys
sys.path.insert(0, os.getcwd())
try:
    import hw
    points = sum((hw.add(1, 2) == 3, hw.mul(2, 3) == 6))
except Exception as error:
    points = 0
with open(os.environ["GRADING_RESULT"], "w") as file:
    json.dump({"score": points, "max_score": 2, "feedback": f"{points} of 2 are right"}, file)
"""
RIGHT = "def add(a, b): return a + b\ndef mul(a, b): return a * b\n"
HALF = "def add(a, b): return a + b\ndef mul(a, b): return a + b\n"
LIMITS = {"seconds": 10, "memory": "200 MB", "disk": "20 MB", "output": "1 MB", "processes": 32}


@pytest.fixture(scope="module")
def whole() -> Iterator[Taught]:
    with taught_class() as room:
        yield room


@pytest.fixture
def room(whole) -> Taught:
    """With a release and tests of the teacher's, and nothing handed in."""
    use(whole, ["python3", "grade.py"])
    for folder in ("grading", "retrieved"):
        subprocess.run(["rm", "-rf", "--", str(whole.folder / folder)], check=True)
    for name in NAMES:
        subprocess.run(["rm", "-rf", "--", str(whole.home(name) / "tutorial"), str(whole.home(name) / "feedback")])
    release, source = whole.folder / "grading/release/ps1", whole.folder / "grading/source/ps1"
    release.mkdir(parents=True)
    source.mkdir(parents=True)
    (release / "hw.py").write_text("def add(a, b): ...\n")
    (source / "grade.py").write_text(TESTS)
    whole.hand_over()
    whole.sudo("send", "--assignment", "ps1")
    return whole


def use(room: Taught, command: list[str], **limits: Any) -> None:
    first = room.config["accounts"]["uid_range"].partition("-")[0]
    uids = f"{int(first) + 20000}-{int(first) + 20019}"
    room.write(grading={"command": command, "uid_range": uids, **LIMITS, **limits})


def hand_in(room: Taught, name: str, text: str, path: str = "hw.py") -> None:
    write(name, f"tutorial/ps1/{path}", text)
    room.sudo("retrieve", "--assignment", "ps1", expect=None)


def graded(room: Taught, *options: str, expect: int = 0) -> dict[str, dict[str, Any]]:
    done = room.sudo("grade", "ps1", "--json", *options, expect=expect)
    envelope.checked(done.stdout, done.returncode, "grade")
    return {one["username"]: one for one in json.loads(done.stdout)["students"]}


def test_scores_and_feedback_find_their_way(room):
    hand_in(room, ADA, RIGHT)
    hand_in(room, BOB, HALF)
    said = graded(room)
    assert {name: (one["score"], one["max_score"]) for name, one in said.items()} == {ADA: (2, 2), BOB: (1, 2)}
    assert "nothing to do" in room.sudo("grade", "ps1").stdout
    assert "1" in next(line for line in room.sudo("grades", "ps1").stdout.splitlines() if line.startswith(BOB))
    room.sudo("feedback", "ps1")
    assert (room.home(BOB) / "feedback/ps1/feedback.txt").read_text() == "1 of 2 are right"


def test_only_what_changed_is_graded_again(room):
    hand_in(room, ADA, RIGHT)
    hand_in(room, BOB, HALF)
    before = graded(room)
    hand_in(room, BOB, RIGHT)
    after = graded(room)
    assert after[ADA]["graded_at"] == before[ADA]["graded_at"]
    assert (after[BOB]["score"], after[ADA]["status"]) == (2, "unchanged")
    (room.folder / "grading/source/ps1/grade.py").write_text(TESTS.replace('"max_score": 2', '"max_score": 3'))
    room.hand_over()
    assert {one["status"] for one in graded(room).values()} == {"done"}


def test_a_program_that_ends_before_it_is_watched_has_been_run(room, monkeypatch):
    entry = pwd.getpwnam(ADA)
    account = Account(ADA, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    start = spawn.fork_exec

    def started_and_ended(child: spawn.Child) -> tuple[Handle, int]:
        handle, output = start(child)
        eventually(lambda: not processes.is_running(handle))
        return handle, output

    monkeypatch.setattr(spawn, "fork_exec", started_and_ended)
    place = Place(account, Sandbox(Group(Kind.NONE, Path())))
    ended = program.run(place, ["sh", "-c", "echo done; exit 3"], {"PATH": "/usr/bin:/bin"}, "", seconds=30, most=100)
    assert ended == program.Ended(3, "done\n")


def test_a_student_cannot_bring_tests_of_their_own(room):
    hand_in(room, ADA, HALF)
    hand_in(room, ADA, "import os, json; json.dump({'score': 2, 'max_score': 2}, open('x', 'w'))\n", "grade.py")
    assert graded(room)[ADA]["score"] == 1


@pytest.mark.parametrize(
    "code, words",
    [
        ("while True: pass", "not done after"),
        ("import time\ntime.sleep(1000)", "not done after"),
        ("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError: pass", "not done after"),
    ],
)
def test_what_does_not_end_is_ended_and_costs_one_row(room, code, words):
    use(room, ["python3", "grade.py"], seconds=5)
    hand_in(room, ADA, code)
    hand_in(room, BOB, RIGHT)
    said = graded(room)
    assert words in said[ADA]["failure"] and said[ADA]["score"] is None
    assert said[BOB]["score"] == 2
    assert "nothing to do" in room.sudo("grade", "ps1").stdout


LOOKS = """
import os, socket
found = []
for path in ({places}):
    try:
        found.append((path, os.listdir(path) if os.path.isdir(path) else open(path).read()[:10]))
    except OSError:
        pass
for family, address in ((socket.AF_INET, ("192.0.2.1", 9)), (socket.AF_INET6, ("2001:db8::1", 9))):
    try:
        socket.socket(family, socket.SOCK_DGRAM).connect(address)
        found.append(address)
    except OSError:
        pass
try:
    socket.socket(socket.AF_UNIX).connect("\\0nbt-grading-test")
    found.append("abstract")
except OSError:
    pass
assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and os.stat("/proc/" + pid).st_uid != os.getuid()]
for path in ("/x", "/usr/x", "/etc/x", "/proc/sys/kernel/core_pattern"):
    try:
        open(path, "w").close()
        found.append(path)
    except OSError:
        pass
assert not found, found
"""


def test_a_program_sees_neither_others_nor_a_network(room):
    import socket

    places = [str(room.folder), str(room.store), "/root", "/var/lib/nblauncher", "/home/" + BOB, "/etc/shadow", "/run"]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0nbt-grading-test")
        listening.listen()
        hand_in(room, ADA, LOOKS.format(places=f"{', '.join(map(repr, places))},") + RIGHT)
        said = graded(room)
    assert said[ADA]["score"] == 2, said


def test_without_a_release_there_is_nothing_to_send(room):
    refused = room.sudo("send", "--assignment", "ps2", expect=3).stderr
    assert "there is no assignment ps2" in refused


def test_a_program_that_is_not_there_is_named(room):
    use(room, ["no-such-program"])
    hand_in(room, ADA, RIGHT)
    refused = room.sudo("grade", "ps1", expect=5).stderr
    assert "there is no program no-such-program" in refused
