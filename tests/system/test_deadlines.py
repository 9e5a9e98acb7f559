"""Work as it was at one moment, of everybody: captured, stored, receipted, whatever students and crashes do."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest

from nblauncher.isolation import cgroups
from tests.classroom import Classroom, set_up_class
from tests.homework import as_student, become, write
from tests.launched import supervisor_pid, visitor
from tests.running import eventually

pytestmark = [pytest.mark.system, pytest.mark.slow]  # each waits for a moment, and for nobody to delay it

ADA, BOB = NAMES = ["nbtqada", "nbtqbob"]


@pytest.fixture
def room() -> Iterator[Classroom]:
    with set_up_class("nbtq1", NAMES, port=18480, first_uid=31400) as made:
        yield made


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def written(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def set_deadline(room: Classroom, at: datetime, folder: str = "ps1", **more: Any) -> None:
    """In the config, accepted as `launch` would."""
    room.write(deadlines={folder: {"at": written(at), **more} if more else written(at)})
    room.run("setup", expect=None)


def collect(room: Classroom, expect: int | None = 0) -> dict[str, Any]:
    """What the supervisor would start."""
    out = room.run("retrieve", "--unattended", room.course, expect=expect).stdout
    return {"out": out}


def captured(room: Classroom) -> list[Path]:
    """Retrieved folders, oldest first."""
    return sorted(one for one in (room.folder / "retrieved").glob("2*"))


def manifest(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "manifest.json").read_text())


def receipts_of(room: Classroom, name: str) -> list[Path]:
    return sorted((room.home(name) / "receipts").glob("*.json"))


def test_everybodys_work_is_taken_at_the_moment_and_later_work_is_not(room):
    write(ADA, "tutorial/ps1/lab.py", "before")
    write(ADA, "tutorial/other.py", "not part of it")
    write(BOB, "tutorial/ps1/lab.py", "bob's")
    at = soon(4)
    set_deadline(room, at)
    told = collect(room)["out"]
    write(ADA, "tutorial/ps1/lab.py", "after")
    (folder,) = captured(room)
    assert (folder / ADA / "work/ps1/lab.py").read_text() == "before"
    assert (folder / BOB / "work/ps1/lab.py").read_text() == "bob's"
    assert not (folder / ADA / "work/other.py").exists()
    about = manifest(folder, ADA)["deadline"]
    assert (about["deadline"], about["folder"], about["late"]) == ("ps1", "ps1", False)
    assert datetime.fromisoformat(about["at"]) == at
    assert timedelta(0) <= datetime.fromisoformat(about["captured"]) - at < timedelta(seconds=5)
    assert str(folder) in told and "UTC" in told and "was frozen for" in told
    assert (folder / ADA / "work/ps1/lab.py").stat().st_mode & 0o777 == 0o600
    assert "nothing to do" in collect(room)["out"]
    assert captured(room) == [folder]
    assert not list(room.paths.captures.glob("*/*.json"))


def test_what_one_student_hands_in_leaves_the_others_their_part_of_the_disk(room):
    write(ADA, "tutorial/ps1/noise", "").write_bytes(os.urandom(15_000_000))
    write(BOB, "tutorial/ps1/lab.bin", "").write_bytes(os.urandom(8_000_000))
    set_deadline(room, soon(-1))
    room.paths.captures.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=0700", "tmpfs", str(room.paths.captures)], check=True)
    try:
        collect(room, expect=None)
    finally:
        subprocess.run(["umount", "-l", str(room.paths.captures)], check=True)
    (folder,) = captured(room)
    assert (folder / BOB / "work/ps1/lab.bin").stat().st_size == 8_000_000
    (left_out,) = manifest(folder, ADA)["exclusions"]
    assert (left_out["path"], left_out["incomplete"]) == ("work/ps1/noise", True)
    assert "the student's share of what is free on the disk" in left_out["reason"]


def test_a_receipt_lies_in_each_home_and_settles_disputes(room):
    write(ADA, "tutorial/ps1/lab.py", "my work")
    as_student(BOB, "mkdir", "-p", "tutorial/ps1")
    set_deadline(room, soon(2))
    collect(room)
    (receipt,) = receipts_of(room, ADA)
    assert (receipt.stat().st_uid, receipt.stat().st_mode & 0o777) == (pwd.getpwnam(ADA).pw_uid, 0o600)
    genuine = room.run("verify-receipt", str(receipt)).stdout
    assert genuine.startswith(f"Genuine: {ADA}, ps1, captured at ") and "1 files, 7 bytes" in genuine
    assert "with this manifest" in genuine
    about = json.loads(receipt.read_text())
    assert [one["path"] for one in about["files"]] == ["lab.py"]
    forged = room.folder / "forged.json"
    forged.write_text(receipt.read_text().replace('"size": 7', '"size": 8'))
    assert "not genuine" in room.run("verify-receipt", str(forged), expect=3).stderr
    assert "cannot be read" in room.run("verify-receipt", str(room.folder / "none"), expect=3).stderr
    (captured(room)[0] / ADA / "manifest.json").write_text("{}")
    assert "is no longer in the store" in room.run("verify-receipt", str(receipt)).stdout


def test_a_receipt_in_a_home_is_read_as_its_student(room):
    secret = room.folder / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    as_student(ADA, "ln", "-s", str(secret), "receipt.json")
    failed = room.run("verify-receipt", str(room.home(ADA) / "receipt.json"), expect=3)
    assert "permission denied" in failed.stderr


def test_extra_time_and_extensions_have_a_later_moment_of_their_own(room):
    (room.folder / "students.csv").write_text(f"username,extra_time\n{ADA},\n{BOB},50%\n")
    for name in NAMES:
        write(name, "tutorial/ps1/lab.py", "early")
    at = soon(4)
    set_deadline(room, at, starts=written(at - timedelta(seconds=12)))
    (room.folder / "students.csv").write_text(f"username,extra_time\n{ADA},\n{BOB},50%\n")
    room.run("setup", expect=None)
    process = room.start("retrieve", "--unattended", room.course)
    while datetime.now().astimezone() < at + timedelta(seconds=2.5):
        time.sleep(0.1)
    for name in NAMES:
        write(name, "tutorial/ps1/lab.py", "later")
    assert process.wait(60) == 0
    process.communicate()
    first, second = captured(room)
    assert [(first / name).exists() for name in NAMES] == [True, False]
    assert [(second / name).exists() for name in NAMES] == [False, True]
    assert (first / ADA / "work/ps1/lab.py").read_text() == "early"
    assert (second / BOB / "work/ps1/lab.py").read_text() == "later"


def test_extend_moves_one_students_moment(room):
    at = soon(3600)
    set_deadline(room, at)
    told = room.json("extend", ADA, "15m")
    assert datetime.fromisoformat(told["at"]) == at + timedelta(minutes=15)
    told = room.json("extend", ADA, "5")
    assert datetime.fromisoformat(told["at"]) == at + timedelta(minutes=20)
    assert "is not a length" in room.run("extend", ADA, "long", expect=2).stderr
    assert "no such deadline" in room.run("extend", ADA, "5m", "--deadline", "ps9", expect=3).stderr
    assert "no student" in room.run("extend", "nbtqnobody", "5m", expect=3).stderr


def test_a_missed_moment_is_done_later_and_marked(room):
    write(ADA, "tutorial/ps1/lab.py", "work")
    as_student(BOB, "mkdir", "-p", "tutorial/ps1")
    set_deadline(room, soon(-3600))
    collect(room)
    (folder,) = captured(room)
    assert manifest(folder, ADA)["deadline"]["late"] is True
    assert "LATE" in room.run("verify-receipt", str(receipts_of(room, ADA)[0])).stdout


def test_without_a_class_the_command_waits_in_the_foreground(room):
    write(ADA, "tutorial/lab.py", "work")
    at = soon(3)
    told = room.run("retrieve", "--at", written(at))
    assert "waiting here until" in told.stderr and at.strftime("%H:%M:%S") in told.stdout
    assert datetime.now().astimezone() >= at
    assert (captured(room)[0] / ADA / "work/lab.py").read_text() == "work"
    assert "is past" in room.run("retrieve", "--at", "2001-01-01 00:00", expect=3).stderr
    assert "is not a time" in room.run("retrieve", "--at", "noon", expect=2).stderr


def test_who_has_no_folder_is_there_with_nothing_and_incomplete(room):
    write(ADA, "tutorial/ps1/lab.py", "work")
    set_deadline(room, soon(2))
    collect(room, expect=5)
    assert manifest(captured(room)[0], BOB)["files"] == []
    assert "there is no such folder" in json.dumps(manifest(captured(room)[0], BOB))


WRITER = """
import os, sys, time
letters = 'abcdefghij'
while True:
    for letter in letters:
        for number in range(20):
            with open(f'tutorial/ps1/new{number}', 'w') as file:
                file.write(letter * 20000)
            os.replace(f'tutorial/ps1/new{number}', f'tutorial/ps1/file{number}')
            time.sleep(0.01)
"""


def start_in_class(room: Classroom, name: str, script: str) -> None:
    """A Python script that a cell of a notebook starts, on a server that `launch` made."""
    room.run("launch", "--background", "--only", name)
    words = [sys.executable, "-I", "-c", script]
    with visitor(room, name) as browser:
        browser.run(
            f"import os, subprocess\nos.chdir({str(room.home(name))!r})\n"
            f"subprocess.Popen({words!r}, start_new_session=True); print('started')"
        )


def end_class(room: Classroom) -> None:
    room.run("shutdown", "--yes")


def start_writer(room: Classroom, name: str) -> None:
    start_in_class(room, name, WRITER)


def group_of(room: Classroom, name: str) -> cgroups.Group:
    return cgroups.choose(room.course).of_student(pwd.getpwnam(name).pw_uid)


def test_of_a_student_who_writes_all_the_time_one_moment_is_captured_and_nothing_torn(room):
    """The writer goes through 20 files with one letter after the other: at one moment at most two letters are there.

    What it wrote between the moment and the freezing is there as it was seen before.
    """
    write(ADA, "tutorial/ps1/lab.py", "x")
    start_writer(room, ADA)
    try:
        set_deadline(room, soon(3))
        collect(room, expect=None)
    finally:
        end_class(room)
    (folder,) = captured(room)
    texts = {file.name: file.read_text() for file in (folder / ADA / "work/ps1").glob("file*")}
    assert len(texts) == 20
    assert all(len(set(text)) == 1 and len(text) == 20000 for text in texts.values())
    about = manifest(folder, ADA)
    late = {one["path"] for one in about["deadline"]["late_files"]}
    order = [texts[name][0] for number in range(20) if (name := f"file{number}") not in late]
    assert len(order) > 5
    assert len(set(order)) <= 2
    changes = [one for one, other in itertools.pairwise(order) if one != other]
    assert len(changes) <= 1
    left_out = {one["path"].removeprefix("work/ps1/") for one in about["exclusions"]} - late
    assert len(left_out) <= 1 and all(name.startswith("new") for name in left_out)  # what it was writing just then


def test_a_save_that_is_caught_in_the_middle_comes_to_its_end_and_is_captured_whole(room):
    """As Jupyter saves, only slower: emptied, written in two steps a moment apart, closed for a while."""
    write(ADA, "tutorial/ps1/lab.ipynb", "x" * 40)
    script = """
import time
while True:
    with open('tutorial/ps1/lab.ipynb', 'w') as file:
        file.write('x' * 20)
        file.flush()
        time.sleep(0.15)
        file.write('x' * 20)
    time.sleep(0.1)
"""
    start_in_class(room, ADA, script)
    try:
        set_deadline(room, soon(3))
        collect(room, expect=None)
    finally:
        end_class(room)
    (folder,) = captured(room)
    about = manifest(folder, ADA)
    is_whole = (folder / ADA / "work/ps1/lab.ipynb").read_text() == "x" * 40
    assert is_whole or not about["complete"]  # with five looks it is whole in 19 of 20 cases, and else it is said


def test_a_save_that_is_caught_in_the_middle_is_captured_as_it_is_and_said(room):
    write(ADA, "tutorial/ps1/lab.ipynb", "whole")
    script = "import time; file = open('tutorial/ps1/lab.ipynb', 'w'); file.write('ha'); file.flush(); time.sleep(60)"
    start_in_class(room, ADA, script)
    try:
        set_deadline(room, soon(3))
        collect(room, expect=5)
    finally:
        end_class(room)
    (folder,) = captured(room)
    assert (folder / ADA / "work/ps1/lab.ipynb").read_text() == "ha"
    (said,) = manifest(folder, ADA)["exclusions"]
    assert "may be half of a save" in said["reason"] and said["incomplete"] is True


@pytest.mark.parametrize("stage", ["copy ps1 of", "capture the work", "put ps1 of", "give", "clear"])
def test_killed_at_any_stage_nobody_stays_frozen_and_the_next_run_finishes(room, stage):
    write(ADA, "tutorial/ps1/lab.py", "x")
    write(BOB, "tutorial/ps1/lab.py", "x")
    start_writer(room, ADA)
    try:
        set_deadline(room, soon(6))
        process = room.start("retrieve", "--unattended", room.course)
        for text in process.stderr:
            if f"] {stage}" in text:
                break
        process.kill()
        process.communicate()
        eventually_moving(room.home(ADA) / "tutorial/ps1/file0")
        collect(room, expect=None)
    finally:
        end_class(room)
    done = [folder for folder in captured(room) if (folder / ADA).exists()]
    assert len(done) in (1, 2)  # killed between the store and the ledger it is there twice
    assert {name for folder in done for name in os.listdir(folder)} == set(NAMES)
    assert len(receipts_of(room, ADA)) == len(receipts_of(room, BOB)) == 1
    assert not list(room.paths.captures.glob("*/*.json"))
    assert not [one for one in os.listdir(room.folder / "retrieved") if one.startswith(".2")]


def test_killed_while_everybody_stands_still(room):
    """In the middle of the pause, which is made long by much to copy."""
    for number in range(60):
        write(ADA, f"tutorial/ps1/lab{number}", "").write_bytes(os.urandom(1_000_000))
    start_writer(room, ADA)
    try:
        set_deadline(room, soon(3))
        process = room.start("retrieve", "--unattended", room.course)
        frozen = group_of(room, ADA).path / "cgroup.freeze"
        deadline = time.monotonic() + 20
        while frozen.read_text().strip() != "1" and time.monotonic() < deadline:
            pass
        assert frozen.read_text().strip() == "1"
        process.kill()
        process.communicate()
        eventually_moving(room.home(ADA) / "tutorial/ps1/file0")
        assert frozen.read_text().strip() == "0"
        collect(room, expect=None)
    finally:
        end_class(room)
    assert captured(room)


HOPPER = """
import os, time
number = 0
while True:
    for _ in range(30):
        with open(f'tutorial/ps1/{number % 9000}.txt', 'w') as file:
            file.write(repr(time.time()))
        number += 1
    if os.fork():
        os._exit(0)
"""
CLOCK_TICK = 0.02
"""A file's time is that of the last tick of the kernel's clock."""


def test_nothing_written_after_the_moment_is_in_time_however_many_files_there_are_and_however_the_writer_hops(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    start_in_class(room, ADA, HOPPER)
    try:
        eventually(lambda: len(os.listdir(room.home(ADA) / "tutorial/ps1")) > 7000)
        at = soon(4)
        set_deadline(room, at)
        collect(room, expect=None)
    finally:
        end_class(room)
    (folder,) = captured(room)
    about = manifest(folder, ADA)
    assert about["deadline"]["late"] is False
    receipt = json.loads(receipts_of(room, ADA)[0].read_text())
    assert receipt["late_files"] == about["deadline"]["late_files"]
    late = {one["path"] for one in receipt["late_files"] if one["kept_as_of"] is None}
    assert {one["path"] for one in receipt["files"] if one.get("late")} == late
    texts = {file.name: file.read_text() for file in (folder / ADA / "work/ps1").glob("*.txt")}
    assert len(texts) > 7000
    after = {name for name, text in texts.items() if text and float(text) > at.timestamp() + CLOCK_TICK}
    assert after <= late


@pytest.mark.parametrize("later", [0, 12])
def test_what_changed_after_the_moment_is_kept_as_it_was_before_or_marked_late(room, later):
    """Captured late, because the first run was killed: what a student does meanwhile counts for nothing."""
    for name in ("edited", "touched", "backdated", "untouched"):
        write(ADA, f"tutorial/ps1/{name}", "in time")
    at = soon(12)
    set_deadline(room, at)
    process = room.start("retrieve", "--unattended", room.course)
    eventually(lambda: len(list(room.paths.captures.glob("*/*.json"))) == 2)
    process.kill()
    process.communicate()
    assert datetime.now().astimezone() < at
    while datetime.now().astimezone() <= at + timedelta(seconds=later):
        time.sleep(0.05)
    write(ADA, "tutorial/ps1/edited", "too late")
    write(ADA, "tutorial/ps1/new", "too late")
    write(ADA, "tutorial/ps1/backdated", "too late")
    as_student(ADA, "touch", "-d", "2001-01-01", "tutorial/ps1/backdated")
    as_student(ADA, "chmod", "600", "tutorial/ps1/touched")
    collect(room, expect=5)
    (folder,) = captured(room)
    texts = {file.name: file.read_text() for file in (folder / ADA / "work/ps1").iterdir()}
    assert texts == {**dict.fromkeys(("edited", "touched", "backdated", "untouched"), "in time"), "new": "too late"}
    about = manifest(folder, ADA)
    late = {one["path"]: one["kept_as_of"] for one in about["deadline"]["late_files"]}
    assert set(late) == {"edited", "backdated", "new"}
    assert late["new"] is None and datetime.fromisoformat(late["edited"]) <= at
    assert "1 of the files LATE" in room.run("verify-receipt", str(receipts_of(room, ADA)[0])).stdout
    told = room.json("retrieve", "--assignment", "ps1", expect=5)
    folder = captured(room)[-1]
    assert not (folder / ADA / "work/ps1/new").exists()
    assert (folder / ADA / "late/ps1/new").read_text() == "too late"
    assert next(one for one in told["students"] if one["username"] == ADA)["late"] is True


def killed_together(room: Classroom, process: subprocess.Popen[str]) -> None:
    """The capture, its watcher, its workers and the supervisor, none of whom sees the others go."""
    command = psutil.Process(process.pid)
    everybody = [command, *command.children(recursive=True), psutil.Process(supervisor_pid(room))]
    for one in everybody:
        one.suspend()
    for one in everybody:
        one.kill()
    process.communicate()


@pytest.mark.parametrize("words", [("status",), ("launch", "--background"), ("retrieve",), ("extend", BOB, "5m")])
def test_a_class_that_a_killed_capture_left_frozen_goes_on_with_the_next_command_which_says_so(room, words):
    for number in range(60):
        write(ADA, f"tutorial/ps1/lab{number}", "").write_bytes(os.urandom(1_000_000))
    start_writer(room, ADA)
    outside = subprocess.Popen([*become(ADA), "sleep", "600"], start_new_session=True)
    file = room.home(ADA) / "tutorial/ps1/file0"
    try:
        before = Path(f"/proc/{outside.pid}/cgroup").read_text()
        set_deadline(room, soon(3))
        process = room.start("retrieve", "--unattended", room.course)
        state = group_of(room, ADA).path / "cgroup.freeze"
        eventually(lambda: state.read_text().strip() == "1")
        killed_together(room, process)
        assert state.read_text().strip() == "1"
        assert room.run("status", "--dry-run").stderr == "" and state.read_text().strip() == "1"
        set_deadline_aside(room)
        told = room.run(*words, expect=None).stderr
        assert "left students frozen. Thawed them" in told and ADA in told
        eventually_moving(file)
        assert Path(f"/proc/{outside.pid}/cgroup").read_text() == before
        assert "frozen" in (room.paths.logs / "nblauncher.log").read_text()
        assert "Thawed them" not in room.run("status").stderr
    finally:
        outside.kill()
        outside.wait()
        room.run("launch", "--background", "--only", ADA, expect=None)
        end_class(room)


def set_deadline_aside(room: Classroom) -> None:
    """Far away, so that what is looked at is not another capture."""
    room.write(deadlines={"exam": written(soon(3600))})


def eventually_moving(file: Path) -> None:
    deadline = time.monotonic() + 15
    seen = set()
    while len(seen) < 3:
        assert time.monotonic() < deadline, "the student's writer stands still"
        seen.add(file.stat().st_mtime_ns if file.exists() else 0)
        time.sleep(0.02)


def test_who_kills_our_workers_beforehand_is_captured_at_the_moment_all_the_same(room):
    write(ADA, "tutorial/ps1/lab.py", "as it was")
    attack = "import os\nwhile True:\n try: os.kill(-1, 9)\n except OSError: pass"
    # From a login: in the class it would end itself with its server.
    attacker = subprocess.Popen([*become(ADA), sys.executable, "-I", "-c", attack], start_new_session=True)
    try:
        set_deadline(room, soon(5))
        collect(room, expect=None)  # no receipt for whoever kills who brings it
    finally:
        os.killpg(attacker.pid, signal.SIGKILL)
        attacker.wait()
    (folder,) = captured(room)
    assert (folder / ADA / "work/ps1/lab.py").read_text() == "as it was"
    assert manifest(folder, ADA)["deadline"]["late"] is False


def test_who_stands_still_by_freeze_does_so_after_a_capture_too(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    start_writer(room, ADA)
    file = room.home(ADA) / "tutorial/ps1/file0"
    try:
        eventually_moving(file)
        room.run("freeze", "--only", ADA)
        set_deadline(room, soon(2))
        collect(room, expect=None)
        before = file.stat().st_mtime_ns
        time.sleep(0.3)
        assert file.stat().st_mtime_ns == before
        assert (captured(room)[0] / ADA / "work/ps1/file0").exists()
        room.run("thaw")
        eventually_moving(file)
    finally:
        end_class(room)


def test_a_folder_that_is_a_link_or_endless_gains_nothing(room):
    secret = room.folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("root's")
    as_student(ADA, "ln", "-s", str(secret), "tutorial/ps1")
    as_student(
        BOB, "sh", "-c", "mkdir -p tutorial/ps1; mkfifo tutorial/ps1/fifo; ln -s /etc/shadow tutorial/ps1/shadow"
    )
    set_deadline(room, soon(2))
    collect(room, expect=5)
    (folder,) = captured(room)
    assert manifest(folder, ADA)["files"] == manifest(folder, BOB)["files"] == []
    assert not list(folder.rglob("key"))


def test_freeze_and_thaw_for_the_whole_class_or_some(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    start_writer(room, ADA)
    file = room.home(ADA) / "tutorial/ps1/file0"
    try:
        eventually_moving(file)
        room.run("freeze")
        before = file.stat().st_mtime_ns
        time.sleep(0.3)
        assert file.stat().st_mtime_ns == before
        assert "nothing to do" in room.run("freeze").stdout
        room.run("thaw", "--only", BOB)
        assert file.stat().st_mtime_ns == before
        room.run("thaw")
        eventually_moving(file)
        assert "nothing to do" in room.run("thaw").stdout
    finally:
        end_class(room)


def test_a_frozen_student_stays_frozen_whoever_signs_in_wakes_or_kills_and_whatever_becomes_of_the_supervisor(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    start_writer(room, ADA)
    file = room.home(ADA) / "tutorial/ps1/file0"
    logins = []
    try:
        eventually_moving(file)
        room.run("freeze")
        stood = file.stat().st_mtime_ns
        wake = "while :; do kill -CONT -1; date > tutorial/ps1/login; done"
        logins.append(subprocess.Popen([*become(ADA), "sh", "-c", wake], cwd=room.home(ADA), start_new_session=True))
        eventually(lambda: is_held(room, ADA, logins[0].pid))
        assert file.stat().st_mtime_ns == stood
        wrote = (room.home(ADA) / "tutorial/ps1/login").stat().st_mtime_ns
        # Root's file workers run. `date` may be frozen with its file open: then that one file is incomplete.
        retrieved = room.run("retrieve", "--only", ADA, expect=None)
        words = retrieved.stdout + retrieved.stderr
        assert retrieved.returncode in (0, 5) and "The work is in" in words, words
        assert words.count("(incomplete)") == words.count("ps1/login: changed while it was read (incomplete)"), words
        psutil.Process(supervisor_pid(room)).kill()
        room.run("status")
        told = room.run("launch", "--background", "--only", ADA).stderr
        assert f"left alone until `nblauncher thaw`: {ADA}" in told
        assert file.stat().st_mtime_ns == stood
        assert (room.home(ADA) / "tutorial/ps1/login").stat().st_mtime_ns == wrote
        room.run("thaw")
        eventually_moving(file)
        eventually(lambda: (room.home(ADA) / "tutorial/ps1/login").stat().st_mtime_ns != wrote)
    finally:
        for one in logins:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()
        room.run("thaw", expect=None)
        end_class(room)


def is_held(room: Classroom, name: str, pid: int) -> bool:
    return pid in cgroups.choose(room.course).held(pwd.getpwnam(name).pw_uid).pids()


def test_freeze_says_which_process_of_the_class_is_outside_of_its_group(room):
    write(ADA, "tutorial/ps1/lab.py", "x")
    start_writer(room, ADA)
    try:
        groups = cgroups.choose(room.course)
        eventually_moving(room.home(ADA) / "tutorial/ps1/file0")
        lost = next(pid for pid in group_of(room, ADA).pids() if "letters" in " ".join(psutil.Process(pid).cmdline()))
        (groups.root.parents[1] / "cgroup.procs").write_text(str(lost))
        failed = room.run("freeze", expect=5)
        assert "frozen, but processes of the class are not in" in failed.stderr and str(lost) in failed.stderr
        before = (room.home(ADA) / "tutorial/ps1/file0").stat().st_mtime_ns
        assert is_held(room, ADA, lost)
        assert (room.home(ADA) / "tutorial/ps1/file0").stat().st_mtime_ns == before
        room.run("thaw")
        psutil.Process(lost).kill()  # `shutdown` does not know it any more
    finally:
        end_class(room)


def test_a_full_store_of_the_teachers_loses_no_capture(room):
    write(ADA, "tutorial/ps1/lab.py", "as it was")
    as_student(BOB, "mkdir", "tutorial/ps1")
    store = room.folder / "retrieved"
    store.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=6,mode=0700", "tmpfs", str(store)], check=True)
    try:
        set_deadline(room, soon(2))
        failed = room.run("retrieve", "--unattended", room.course, expect=None)
        assert failed.returncode in (1, 5) and "disk full" in failed.stderr
    finally:
        subprocess.run(["umount", str(store)], check=True)
    write(ADA, "tutorial/ps1/lab.py", "changed since")
    collect(room)
    assert (captured(room)[-1] / ADA / "work/ps1/lab.py").read_text() == "as it was"
    assert manifest(captured(room)[-1], ADA)["deadline"]["late"] is False


def test_deadlines_that_make_no_sense_are_refused_with_their_line(room):
    for value, words in (
        ("tomorrow", "is not a time"),
        ({"at": "2026-11-27 17:00", "until": "x"}, "is not `at` or `starts`"),
        ({"starts": "2026-11-27 17:00"}, "`at` is missing"),
        ({"at": "2026-11-27 17:00", "starts": "2026-11-27 18:00"}, "starts after it ends"),
    ):
        room.write(deadlines={"ps1": value})
        failed = room.run("setup", expect=3)
        assert words in failed.stderr and re.search(r"line \d+", failed.stderr)
    room.write(deadlines={"../ps1": "2026-11-27 17:00"})
    assert "is not a plain folder name" in room.run("setup", expect=3).stderr
    room.write(deadlines={})


# For grading


def test_an_assignment_is_laid_out_for_nbgrader_with_roots_time(room):
    (room.folder / "material/ps1").mkdir()
    (room.folder / "material/ps1/lab.py").write_text("# your answer")
    room.write(retrieve={"layout": "nbgrader"})
    room.run("send")
    write(ADA, "tutorial/ps1/lab.py", "42")
    told = room.run("retrieve", "--assignment", "ps1").stdout
    (folder,) = captured(room)
    assert (folder / "submitted" / ADA / "ps1/lab.py").read_text() == "42"
    assert (folder / "submitted" / BOB / "ps1/lab.py").read_text() == "# your answer"
    stamp = (folder / "submitted" / ADA / "ps1/timestamp.txt").read_text()
    time_of = datetime.strptime(stamp.strip(), "%Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - time_of) < timedelta(minutes=2)
    assert manifest(folder, ADA)["files"][0]["path"] == f"submitted/{ADA}/ps1/lab.py"
    lines = [line.split() for line in told.splitlines()]
    assert [ADA, "handed", "in", "1"] in lines and [BOB, "nothing", "handed", "in", "1"] in lines


def test_work_that_changed_after_the_deadline_is_a_second_layer(room):
    room.write(retrieve={"layout": "nbgrader"})
    for name in NAMES:
        write(name, "tutorial/ps1/lab.py", "in time")
    at = soon(2)
    set_deadline(room, at)
    collect(room)
    write(ADA, "tutorial/ps1/lab.py", "too late")
    write(ADA, "tutorial/ps1/more.py", "more")
    told = room.json("retrieve", "--assignment", "ps1")
    folder = captured(room)[-1]
    assert (folder / "submitted" / ADA / "ps1/lab.py").read_text() == "in time"
    assert (folder / "late" / ADA / "ps1/lab.py").read_text() == "too late"
    assert (folder / "late" / ADA / "ps1/more.py").read_text() == "more"
    assert not (folder / "late" / BOB).exists()
    stamp = (folder / "submitted" / ADA / "ps1/timestamp.txt").read_text()
    assert at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S") in stamp
    students = {one["username"]: one for one in told["students"]}
    assert [(students[name]["handed_in"], students[name]["late"]) for name in NAMES] == [(True, True), (True, False)]
    room.write(retrieve={"layout": "plain"})
    room.run("retrieve", "--assignment", "ps1")
    folder = captured(room)[-1]
    assert (folder / ADA / "work/ps1/lab.py").read_text() == "in time"
    assert (folder / ADA / "late/ps1/lab.py").read_text() == "too late"
    assert manifest(folder, ADA)["late"] is True


def test_a_students_own_time_stamp_does_not_pass_for_ours(room):
    room.write(retrieve={"layout": "nbgrader"})
    write(ADA, "tutorial/ps1/timestamp.txt", "1999-01-01 00:00:00.000000 UTC")
    as_student(BOB, "mkdir", "tutorial/ps1")
    room.run("retrieve", "--assignment", "ps1")
    folder = captured(room)[-1] / "submitted" / ADA / "ps1"
    assert (folder / "timestamp.txt").read_text().startswith("20")
    assert (folder / "timestamp (the student's).txt").read_text().startswith("1999")


@pytest.mark.parametrize("other", ["timestamp (the student's).txt", "timestamp (the student's).txt/notes.txt"])
@pytest.mark.parametrize("own", ["timestamp.txt", "timestamp.txt/2026/data.csv"])
def test_no_name_of_a_students_stops_the_layout_for_nbgrader(room, own, other):
    room.write(retrieve={"layout": "nbgrader"})
    write(ADA, f"tutorial/ps1/{own}", "mine")
    write(ADA, f"tutorial/ps1/{other}", "mine too")
    as_student(BOB, "mkdir", "tutorial/ps1")
    room.run("retrieve", "--assignment", "ps1")
    folder = captured(room)[-1] / "submitted" / ADA / "ps1"
    assert (folder / "timestamp.txt").read_text().startswith("20")
    assert (folder / own.replace("timestamp", "timestamp (the student's 2)", 1)).read_text() == "mine"
    assert (folder / other).read_text() == "mine too"
    for one in manifest(captured(room)[-1], ADA)["files"]:
        assert (captured(room)[-1] / one["path"]).is_file()


def test_a_student_whose_assignment_cannot_be_laid_out_is_left_out_whole(room):
    room.write(retrieve={"layout": "nbgrader"})
    for name in NAMES:
        write(name, "tutorial/ps1/lab.py", "in time")
    set_deadline(room, soon(2))
    collect(room)
    (captured(room)[0] / ADA / "work/ps1/lab.py").unlink()
    room.run("retrieve", "--assignment", "ps1", expect=5)
    folder = captured(room)[-1]
    assert [file for file in folder.rglob("*") if ADA in file.parts] == []
    assert (folder / "submitted" / BOB / "ps1/lab.py").read_text() == "in time"


def test_nobody_is_late_because_the_teacher_moved_the_capture(room):
    write(ADA, "tutorial/ps1/lab.py", "in time")
    as_student(BOB, "mkdir", "tutorial/ps1")
    set_deadline(room, soon(2))
    collect(room)
    captured(room)[0].rename(room.folder / "elsewhere")
    failed = room.run("retrieve", "--assignment", "ps1", expect=None)
    assert failed.returncode in (1, 5)
    assert "is not in" in failed.stderr and "any more" in failed.stderr


def test_an_assignment_that_is_no_folder_is_refused_and_a_hostile_one_gains_nothing(room):
    for name in ("../x", "/etc", "ps1/../..", ""):
        assert "is not a folder" in room.run("retrieve", "--assignment", name, expect=3).stderr
    secret = room.folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("root's")
    as_student(ADA, "ln", "-s", str(secret), "tutorial/ps1")
    room.run("retrieve", "--assignment", "ps1", expect=5)
    assert not list(captured(room)[-1].rglob("key"))
