"""remove where something goes wrong: crashes between any two acts, and homes that are made to get in its way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.ledger import HostLedger
from nblauncher.paths import STATE_ROOT
from tests import launched
from tests.classroom import Classroom
from tests.homework import as_student, brought_home, exists, is_locked, shadow_line, signal_at, write
from tests.running import remove_account

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtmtada", "nbtmtbob"]


HOSTILE = r"""
import os, socket, sys
os.symlink(sys.argv[1], "link")
os.symlink("/etc", "tutorial/etc")
os.symlink("/", ".cache")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.truncate(os.open("sparse", os.O_RDWR | os.O_CREAT), 1 << 40)
open(b"odd \xff\n-rf *", "w").write("kept")
for _ in range(300):
    os.mkdir("d")
    os.chdir("d")
open("deep", "w").write("too deep")
"""


@pytest.fixture
def room() -> Iterator[Classroom]:
    classroom = Classroom("nbtm5", NAMES, port=18390, first_uid=30900)
    try:
        classroom.run("setup")
        yield classroom
    finally:
        classroom.close()


def assert_gone(room: Classroom) -> None:
    for name in NAMES:
        assert not exists(name) and not Path(f"/home/{name}").exists()
    assert not room.paths.state.exists() and not room.paths.run.exists()
    ledger = HostLedger(STATE_ROOT / "host.db")
    assert (ledger.claims(), ledger.courses()) == ({}, ())
    groups = Path("/etc/group").read_text()
    assert not any(f"{name}:" in groups for name in (*NAMES, "nbl-nbtm5"))
    assert set(room.credentials) == set()
    assert room.run("remove", "--yes").stdout == "remove: nothing to do.\n"


@pytest.mark.parametrize(
    "lines",
    [(8, 9, 10), (12,), *(pytest.param(one, marks=pytest.mark.slow) for one in ((1, 2, 3, 5, 7), (11,), (13,)))],
)
def test_after_sigkill_at_any_point_the_same_command_finishes_and_nothing_is_lost(room, lines):
    write(ADA, "tutorial/result.txt", "42")
    write(BOB, "diary.txt", "dear diary")
    for line in lines:
        signal_at(room, line, signal.SIGKILL, "remove", "--yes")
    room.run("remove", "--yes")
    assert brought_home(room, ADA, "work/result.txt")[0] == "42"
    assert brought_home(room, BOB, "home/diary.txt")[0] == "dear diary"
    assert not list((room.folder / "retrieved").glob(".*"))
    assert_gone(room)


def test_ctrl_c_tells_who_was_only_locked_and_the_next_run_finishes(room):
    exit_code, stdout = signal_at(room, 4, signal.SIGINT, "remove", "--yes", "--json")
    said = json.loads(stdout)
    assert exit_code == said["exit_code"] == 130
    assert {one["status"] for one in said["students"]} == {"skipped"}
    assert all(map(is_locked, NAMES))
    room.run("remove", "--yes")
    assert_gone(room)


def test_what_a_crash_between_two_acts_left_is_finished(room):
    """Ada: a home half emptied. Bob: no home any more."""
    ledger = HostLedger(STATE_ROOT / "host.db")
    for name in NAMES:
        ledger.begin_removal(name)
        ledger.begin_emptying(name)
    write(ADA, "rest.txt", "not deleted yet")
    subprocess.run(["rm", "-rf", f"/home/{BOB}"], check=True)
    room.run("remove", "--yes")
    assert brought_home(room, ADA, "home/rest.txt") == ["not deleted yet"]
    assert brought_home(room, BOB, "manifest.json") == []
    assert_gone(room)


def test_what_a_userdel_that_was_cut_short_left_is_finished(room):
    for name in NAMES:
        remove_account(name)
    subprocess.run(["groupadd", "-g", "30900", ADA], check=True)
    answer = room.run("remove", "--yes")
    assert f"{ADA} is gone already: only forgotten here" in answer.stderr
    assert_gone(room)


def test_setup_after_a_crash_that_left_no_home_makes_the_account_anew(room):
    before = shadow_line(ADA)
    HostLedger(STATE_ROOT / "host.db").begin_removal(ADA)
    HostLedger(STATE_ROOT / "host.db").begin_emptying(ADA)
    subprocess.run(["rm", "-rf", f"/home/{ADA}"], check=True)
    assert "a removal had deleted the home already" in room.run("setup").stderr
    assert shadow_line(ADA) != before and not is_locked(ADA)
    assert (room.home(ADA) / ".bashrc").exists()
    assert room.run("setup").stdout == "setup: nothing to do.\n"


def test_a_hostile_home_neither_leads_us_out_nor_keeps_us_from_the_rest(room, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("root's")
    home = room.home(ADA)
    as_student(ADA, sys.executable, "-I", "-c", HOSTILE, str(precious))
    said = room.json("remove", "--yes", expect=5)
    left_out = {one["path"]: one["incomplete"] for one in launched.students(said)[ADA]["exceptions"]}
    assert left_out["home/sparse"] is True
    assert [left_out[f"home/{name}"] for name in ("fifo", "socket", "link", ".cache")] == [False] * 4
    assert any(path.startswith("home/d/d/d") and is_work for path, is_work in left_out.items())
    assert exists(ADA) and is_locked(ADA) and not exists(BOB)
    room.run("remove", "--yes", "--despite-incomplete", ADA)
    assert not exists(ADA) and not home.exists()
    assert precious.read_text() == "root's"
    assert Path("/etc/passwd").exists()
    assert sorted(room.folder.glob("retrieved/*-removed/*/home/odd*"))[-1].read_text() == "kept"


def test_what_root_put_into_a_home_goes_once_it_was_retrieved(room):
    folder = room.home(ADA) / "by-root"
    folder.mkdir(mode=0o755)
    (folder / "dataset.csv").write_text("1,2,3\n")
    room.run("remove", "--yes")
    assert brought_home(room, ADA, "home/by-root/dataset.csv") == ["1,2,3\n"]
    assert_gone(room)


def test_what_is_mounted_in_a_home_is_never_emptied(room, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "others.txt").write_text("somebody else's")
    shared.chmod(0o777)
    point = room.home(ADA) / "shared"
    as_student(ADA, "mkdir", str(point))
    subprocess.run(["mount", "--bind", str(shared), str(point)], check=True)
    try:
        answer = room.run("remove", "--yes", expect=5)
        assert "mounted in the home" in answer.stderr
        assert exists(ADA) and is_locked(ADA) and not exists(BOB)
        assert (shared / "others.txt").read_text() == "somebody else's"
    finally:
        subprocess.run(["umount", str(point)], check=True)
    room.run("remove", "--yes")
    assert not exists(ADA)
    assert (shared / "others.txt").exists()


def test_a_home_that_is_merely_not_there_keeps_its_account(room):
    write(ADA, "thesis.txt", "years of work")
    home = room.home(ADA)
    away = home.with_name("nbtm-away")
    home.rename(away)
    try:
        room.run("remove", "--yes", expect=5)
        assert exists(ADA) and is_locked(ADA)
    finally:
        away.rename(home)
    room.run("remove", "--yes")
    assert not exists(ADA)
    assert brought_home(room, ADA, "home/thesis.txt") == ["years of work"]


def test_a_home_in_a_full_store_stays(room):
    store = room.folder / "retrieved"
    store.mkdir(mode=0o700)
    write(ADA, "diary.txt", "dear diary")
    as_student(ADA, "dd", "if=/dev/urandom", "of=large", "bs=1M", "count=4", "status=none")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(store)], check=True)
    try:
        answer = room.run("remove", "--yes", "--despite-incomplete", ADA, expect=5)
        assert "disk full" in answer.stderr
        assert exists(ADA) and is_locked(ADA) and (room.home(ADA) / "diary.txt").exists()
        assert not exists(BOB)
    finally:
        subprocess.run(["umount", str(store)], check=True)
    room.run("remove", "--yes")
    assert brought_home(room, ADA, "home/diary.txt") == ["dear diary"]
