"""Between the scheduling of a moment and the moment students leave, time is given, courses end, accounts go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.classroom import Classroom, set_up_class
from tests.homework import write

pytestmark = [pytest.mark.system, pytest.mark.slow]  # each waits for a moment

ADA, BOB = NAMES = ["nbthada", "nbthbob"]


@pytest.fixture
def room() -> Iterator[Classroom]:
    made = Classroom("nbth1", NAMES, port=26480, first_uid=32600)
    try:
        for folder in ("ps1", "ps2"):
            (made.folder / "material" / folder).mkdir()
        made.run("setup")
        for name in NAMES:
            write(name, "tutorial/ps1/lab.py", "before")
        yield made
    finally:
        made.close()


def soon(seconds: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).replace(microsecond=0)


def written(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def set_deadlines(room: Classroom, **deadlines: datetime) -> None:
    room.write(deadlines={folder: written(at) for folder, at in deadlines.items()})
    room.run("setup", expect=None)


def collector(room: Classroom) -> subprocess.Popen[str]:
    """What the supervisor starts minutes before a moment; it has copied each student's work when this returns."""
    process = room.start("retrieve", "--unattended", room.course)
    assert process.stderr is not None
    for _student in NAMES:
        assert "beforehand" in process.stderr.readline()
    return process


def collect(room: Classroom, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    return room.run("retrieve", "--unattended", room.course, expect=expect)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def manifests(room: Classroom, name: str) -> list[dict[str, Any]]:
    """Of every capture of the student's, oldest first."""
    found = [json.loads(file.read_text()) for file in sorted((room.folder / "retrieved").glob(f"2*/{name}/manifest*"))]
    return [one for one in found if "deadline" in one]


def captured(room: Classroom, name: str) -> list[tuple[str, datetime, bool]]:
    """Deadline, moment, late: of every capture."""
    found = [one["deadline"] for one in manifests(room, name)]
    return [(one["deadline"], datetime.fromisoformat(one["at"]), one["late"]) for one in found]


def students(room: Classroom, *command: str, expect: int | None = 0) -> dict[str, dict[str, Any]]:
    return {one["username"]: one for one in room.json(*command, expect=expect)["students"]}


# One student's failure is one student's.


def test_who_is_removed_before_the_moment_costs_nobody_else_theirs(room):
    at = soon(25)
    set_deadlines(room, ps1=at)
    process = collector(room)
    room.run("remove", "--only", BOB, "--yes")
    code, told = end(process)
    assert code == 0, told
    assert captured(room, ADA) == [("ps1", at, False)]
    assert captured(room, BOB) == []
    assert students(room, "status")[ADA]["deadlines"] == []


def rename(room: Classroom) -> None:
    subprocess.run(["usermod", "-l", "nbtheve", BOB], check=True)


def rename_back(room: Classroom) -> None:
    subprocess.run(["usermod", "-l", BOB, "nbtheve"], check=True)


def hide_home(room: Classroom) -> None:
    room.home(BOB).rename("/home/nbth-hidden")


def show_home(room: Classroom) -> None:
    Path("/home/nbth-hidden").rename(room.home(BOB))


def cover_home(room: Classroom) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "nbth", str(room.home(BOB))], check=True)


def uncover_home(room: Classroom) -> None:
    subprocess.run(["umount", str(room.home(BOB))], check=True)


def change_uid(room: Classroom) -> None:
    subprocess.run(["usermod", "-u", "32649", BOB], check=True)


def change_uid_back(room: Classroom) -> None:
    subprocess.run(["usermod", "-u", "32601", BOB], check=True)


@pytest.mark.parametrize(
    "break_it, mend_it",
    [(rename, rename_back), (hide_home, show_home), (cover_home, uncover_home), (change_uid, change_uid_back)],
)
def test_an_account_that_went_wrong_costs_one_capture_which_is_said_until_it_is_mended(room, break_it, mend_it):
    at = soon(10)
    set_deadlines(room, ps1=at)
    process = collector(room)
    break_it(room)
    try:
        code, told = end(process)
        assert code == 5 and BOB in told
        assert captured(room, ADA) == [("ps1", at, False)]
        assert captured(room, BOB) == []
        status = students(room, "status")
        assert status[ADA]["deadlines"] == []
        (failed,) = status[BOB]["deadlines"]
        assert (failed["deadline"], failed["state"]) == ("ps1", "not captured") and failed["reason"]
        assert "ps1: not captured" in " ".join(room.run("status").stdout.split())
    finally:
        mend_it(room)
    assignment = students(room, "retrieve", "--assignment", "ps1", expect=5)
    assert assignment[BOB]["capture"]["state"] == "not captured"
    assert assignment[ADA]["capture"]["state"] == "captured"
    assert "NOT CAPTURED at the deadline" in room.run("retrieve", "--assignment", "ps1", expect=5).stdout
    collect(room)
    assert [one[:2] for one in captured(room, BOB)] == [("ps1", at)]
    assert not [one for one in students(room, "status")[BOB]["deadlines"] if one["state"] == "not captured"]


def test_a_late_capture_stands_in_status_and_in_what_is_graded(room):
    set_deadlines(room, ps1=soon(-60))
    assert "LATE" in collect(room).stdout
    for entry in students(room, "status").values():
        assert [one["state"] for one in entry["deadlines"]] == ["late"]
    assert "ps1: captured LATE" in " ".join(room.run("status").stdout.split())
    graded = students(room, "retrieve", "--assignment", "ps1", expect=5)
    assert [graded[name]["capture"]["state"] for name in NAMES] == ["late", "late"]
    assert "captured LATE" in " ".join(room.run("retrieve", "--assignment", "ps1", expect=5).stdout.split())


# Whoever acts later looks again.


def scheduled(room: Classroom, at: datetime, *more: str) -> subprocess.Popen[str]:
    """`retrieve --at` of a class that does not run: it waits when this returns."""
    process = room.start("retrieve", "--at", written(at), *more)
    assert process.stderr is not None
    assert "waiting here until" in process.stderr.readline()
    return process


def stop_between_looks(process: subprocess.Popen[str], ledger: Path) -> None:
    """Not in the middle of a transaction, which would keep everybody else from the ledger."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        opened = [os.readlink(one) for one in Path(f"/proc/{process.pid}/fd").iterdir()]
        if str(ledger) not in opened:
            return
        os.kill(process.pid, signal.SIGCONT)


def test_a_scheduled_capture_does_not_outlive_the_course(room):
    at = soon(25)
    process = scheduled(room, at)
    room.run("remove", "--yes")
    with set_up_class("nbth2", NAMES, port=26580, first_uid=32650) as other:
        code, told = end(process)
        assert code == 1 and "course nbth1 was removed" in told
        assert datetime.now().astimezone() < at  # it did not wait for its moment to find out
        assert captured(room, ADA) == captured(other, ADA) == []
        assert not (other.home(ADA) / "receipts").exists()
        assert not room.paths.state.exists()


def test_a_course_that_is_set_up_again_under_its_name_is_another_one(room):
    process = scheduled(room, soon(3600))
    stop_between_looks(process, room.paths.ledger)  # it notices nothing until the course is there again
    room.run("remove", "--yes")
    room.run("setup")
    os.kill(process.pid, signal.SIGCONT)
    code, told = end(process)
    assert code == 1 and "was removed" in told
    assert captured(room, ADA) == []
    assert room.run("retrieve", "--cancel", "ps1", expect=3).stderr.count("there is: none")


def test_shutdown_ends_what_waits_in_the_foreground(room):
    at = soon(3600)
    process = scheduled(room, at, "--assignment", "ps1")
    assert "cancel the capture of ps1" in room.run("shutdown", "--dry-run").stdout
    room.run("shutdown")
    code, told = end(process)
    assert code == 1 and "was cancelled" in told and "shutdown" in told
    assert room.run("extend", ADA, "5m", expect=3).stderr.count("there is: none")


def test_what_is_scheduled_can_be_cancelled_and_is_then_not_done(room):
    process = scheduled(room, soon(3600), "--assignment", "ps1")
    assert "(there is: ps1)" in room.run("retrieve", "--cancel", "ps9", expect=3).stderr
    assert "Cancelled the capture" in room.run("retrieve", "--cancel", "ps1").stdout
    code, told = end(process)
    assert code == 1 and "was cancelled" in told
    set_deadlines(room, ps2=soon(3600))
    assert "is in the config" in room.run("retrieve", "--cancel", "ps2", expect=3).stderr


def test_control_c_cancels_what_waits_here(room):
    process = scheduled(room, soon(3600), "--assignment", "ps1")
    process.send_signal(signal.SIGINT)
    code, told = end(process)
    assert code == 130 and "Cancelled the capture of ps1" in told
    assert "there is: none" in room.run("retrieve", "--cancel", "ps1", expect=3).stderr


def test_a_killed_command_that_waited_is_told_by_status_until_somebody_captures(room):
    process = scheduled(room, soon(3), "--assignment", "ps1")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while not students(room, "status")[ADA]["deadlines"]:
        assert time.monotonic() < deadline
    assert students(room, "status")[ADA]["deadlines"][0]["state"] == "not captured"
    collect(room)
    assert students(room, "status")[ADA]["deadlines"][0]["state"] == "late"


def test_a_dry_run_schedules_nothing(room):
    assert "would be captured" in room.run("retrieve", "--at", written(soon(60)), "--dry-run").stdout
    assert "there is: none" in room.run("retrieve", "--cancel", "ps1", expect=3).stderr


def test_more_time_in_the_last_seconds_counts(room):
    at = soon(8)
    set_deadlines(room, ps1=at)
    process = collector(room)
    told = room.json("extend", ADA, "1h")
    assert datetime.fromisoformat(told["at"]) == at + timedelta(hours=1)
    code, words = end(process)
    assert code == 0, words
    assert captured(room, ADA) == []
    assert captured(room, BOB) == [("ps1", at, False)]


# Moments that come, go and coincide.


def test_a_moment_that_comes_while_a_later_one_waits_is_in_time(room):
    for name in NAMES:
        write(name, "tutorial/ps2/lab.py", "x")
    set_deadlines(room, ps1=soon(45))
    process = collector(room)
    at = soon(8)
    waiting = scheduled(room, at, "--assignment", "ps2")
    code, told = end(waiting)
    assert code == 0, told
    assert captured(room, ADA) == [("ps2", at, False)]
    assert process.poll() is None  # the later one waits still
    code, told = end(process)
    assert code == 0, told
    assert [(name, late) for name, _at, late in captured(room, ADA)] == [("ps2", False), ("ps1", False)]


def test_a_moment_that_is_put_off_in_its_last_seconds_is_dropped(room):
    set_deadlines(room, ps1=soon(12))
    process = collector(room)
    at = soon(3600)
    set_deadlines(room, ps1=at)
    code, told = end(process)
    assert code == 0 and "nothing to do" in told
    assert captured(room, ADA) == []
    assert [one.name for one in room.paths.captures.glob("*/*.json") if '"captured": 1' in one.read_text()] == []


def test_two_moments_at_one_second_are_one_freeze_and_two_whole_captures(room):
    for name in NAMES:
        write(name, "tutorial/ps2/other.py", "two")
    at = soon(6)
    set_deadlines(room, ps1=at, ps2=at)
    told = collect(room).stdout
    assert told.count("was frozen for") == 1
    assert sorted(captured(room, ADA)) == [("ps1", at, False), ("ps2", at, False)]
    texts = {file.name: file.read_text() for file in (room.folder / "retrieved").glob(f"2*/{ADA}/work/*/*")}
    assert texts == {"lab.py": "before", "other.py": "two"}
    log = (room.paths.logs / "nblauncher.log").read_text()
    assert log.count("students were frozen for") == 1
    assert len(list((room.home(ADA) / "receipts").iterdir())) == 2


# More time afterwards.


def test_more_time_after_the_moment_reopens_it_for_that_student_alone(room):
    at = soon(4)
    set_deadlines(room, ps1=at)
    collect(room)
    told = room.run("extend", ADA, "1d").stdout
    first = manifests(room, ADA)
    assert f"until {at + timedelta(days=1):%Y-%m-%d %H:%M:%S}" in told and "stays in" in told
    open_one = students(room, "retrieve", "--assignment", "ps1")
    assert open_one[ADA]["until"] is not None and open_one[BOB]["until"] is None
    assert "reopened until" in room.run("retrieve", "--assignment", "ps1").stdout
    assert "nothing to do" in collect(room).stdout
    assert manifests(room, ADA) == first


def test_what_is_captured_at_the_new_moment_is_taken_and_the_old_is_superseded(room):
    at = soon(4)
    set_deadlines(room, ps1=at)
    collect(room)
    (old,) = (room.home(ADA) / "receipts").iterdir()
    write(ADA, "tutorial/ps1/lab.py", "after the flu")
    # The clock of a test does not go on for a day: the deadline was a day ago all but some seconds.
    moved = soon(20) - timedelta(minutes=10)
    set_deadlines(room, ps1=moved)
    collect(room)
    room.run("extend", ADA, "10m")
    result = collect(room)
    assert "nothing to do" not in result.stdout
    assert captured(room, ADA)[-1] == ("ps1", moved + timedelta(minutes=10), False)
    assert len(captured(room, BOB)) == 2  # the first moment and the moved one, and no third
    answer = students(room, "retrieve", "--assignment", "ps1", expect=5)  # bob was captured late
    assert answer[ADA]["capture"]["state"] == "captured" and answer[ADA]["capture"]["is_again"]
    told = room.run("retrieve", "--assignment", "ps1", expect=5).stdout
    assert "captured again" in " ".join(told.split())
    newest = sorted((room.folder / "retrieved").glob(f"2*/{ADA}/work/ps1/lab.py"))[-1]
    assert newest.read_text() == "after the flu"
    proven = room.run("verify-receipt", str(old)).stdout
    assert proven.startswith("Genuine") and "superseded" in proven and "with this manifest" in proven


def test_more_time_than_has_passed_counts_from_now(room):
    set_deadlines(room, ps1=soon(-3600))
    collect(room)
    at = datetime.fromisoformat(room.json("extend", ADA, "15m")["at"])
    assert timedelta(minutes=14) < at - datetime.now().astimezone() <= timedelta(minutes=15)


def test_a_deadline_in_the_past_is_told(room):
    set_deadlines(room, ps1=soon(-3600))
    findings = [one for one in room.json("check", expect=None)["findings"] if one["subject"] == "deadlines"]
    assert [(one["level"], "ps1 is past" in one["message"]) for one in findings] == [("warning", True)]
    assert "deadline ps1 is past" in room.run("launch", "--dry-run").stdout
    collect(room)
    findings = [one for one in room.json("check", expect=None)["findings"] if one["subject"] == "deadlines"]
    assert [(one["level"], "was captured" in one["message"]) for one in findings] == [("ok", True)]


def test_an_extension_of_one_scheduled_capture_is_not_the_next_ones(room):
    at = soon(3600)
    first = scheduled(room, at, "--assignment", "ps1")
    room.run("extend", ADA, "1h")
    room.run("retrieve", "--cancel", "ps1")
    end(first)
    second = scheduled(room, at, "--assignment", "ps1")
    told = room.json("extend", ADA, "5m")
    assert datetime.fromisoformat(told["at"]) == at + timedelta(minutes=5)
    room.run("retrieve", "--cancel", "ps1")
    end(second)


def test_a_full_disk_of_the_store_is_said_and_the_capture_is_in_time(room):
    store = room.folder / "retrieved"
    store.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=6,mode=0700", "tmpfs", str(store)], check=True)
    at = soon(4)
    try:
        set_deadlines(room, ps1=at)
        assert collect(room, expect=None).returncode in (1, 5)
        assert {one["deadlines"][0]["state"] for one in students(room, "status").values()} == {"not stored"}
        assert {one["deadlines"][0]["state"] for one in students(room, "deadlines").values()} == {"not stored"}
    finally:
        subprocess.run(["umount", str(store)], check=True)
    collect(room)
    assert captured(room, ADA) == [("ps1", at, False)]
    assert students(room, "status")[ADA]["deadlines"] == []


def test_a_full_disk_of_ours_leaves_out_what_has_no_room_and_says_so(room):
    write(ADA, "tutorial/ps1/much", "").write_bytes(os.urandom(2_000_000))
    room.paths.captures.mkdir(mode=0o700)
    options = "size=256k,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(room.paths.captures)], check=True)
    at = soon(4)
    try:
        set_deadlines(room, ps1=at)
        failed = collect(room, expect=5)
        assert f"{ADA}: work/ps1/much: the student's share of what is free on the disk" in failed.stderr
        (entry,) = students(room, "status")[ADA]["deadlines"]
        assert entry["state"] == "incomplete" and "share of what is free on the disk" in entry["reason"]
    finally:
        subprocess.run(["umount", str(room.paths.captures)], check=True)
    collect(room)
    assert [one[:2] for one in captured(room, ADA)] == [("ps1", at)] == [one[:2] for one in captured(room, BOB)]
