"""Snapshots of real homes: every version, each content once, never beyond the budget, never over a file."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.classroom import Classroom, set_up_class
from tests.homework import as_student, write

pytestmark = pytest.mark.system

ADA, BOB = NAMES = ["nbtyada", "nbtybob"]


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with set_up_class("nbty1", NAMES, port=18460, first_uid=31300) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_yet(room):
    subprocess.run(["rm", "-rf", "--", str(room.paths.history)], check=True)
    room.write(history={"budget": "2 GB"})
    for name in NAMES:
        as_student(name, "sh", "-c", "rm -rf tutorial/*")


def contents(room: Classroom) -> list[bytes]:
    folder = room.paths.history / "objects"
    return [file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()]


def snapshot(room: Classroom, *options: str, expect: int = 0) -> dict[str, dict]:
    answer = json.loads(room.run("snapshot", "--json", *options, expect=expect).stdout)
    return {one["username"]: one for one in answer["students"]}


def history(room: Classroom, *arguments: str) -> dict:
    return json.loads(room.run("history", *arguments, "--json").stdout)


def now() -> str:
    """A time that a snapshot taken before is certainly not after."""
    time.sleep(1.1 - time.time() % 1)
    return time.strftime("%Y-%m-%d %H:%M:%S")


def test_every_version_is_kept_and_comes_back_beside_the_present_one(room):
    file = write(ADA, "tutorial/lab.py", "first thoughts")
    snapshot(room)
    before = now()
    file.write_text("second thoughts")
    snapshot(room)
    told = room.run("restore", ADA, "lab.py", "--at", before).stdout
    (copy,) = file.parent.glob("lab (version *).py")
    assert copy.name in told and before in told
    assert (copy.read_text(), file.read_text()) == ("first thoughts", "second thoughts")
    assert (copy.stat().st_uid, copy.stat().st_mode & 0o777) == (file.stat().st_uid, 0o600)
    assert room.run("restore", ADA, "lab.py", "--at", before).stdout == told  # it is there already
    assert len(list(file.parent.iterdir())) == 2


def test_history_lists_snapshots_and_versions(room):
    file = write(ADA, "tutorial/lab.py", "one")
    snapshot(room)
    file.write_text("two")
    file.with_name("more.txt").write_text("more")
    os.chown(file.with_name("more.txt"), file.stat().st_uid, file.stat().st_gid)
    snapshot(room)
    about = history(room, ADA)
    assert [(one["files"], one["changed"], one["complete"]) for one in about["snapshots"]] == [
        (1, 1, True),
        (2, 2, True),
    ]
    assert about["paths"] == {"lab.py": 2, "more.txt": 1}
    assert [one["present"] for one in history(room, ADA, "lab.py")["versions"]] == [False, True]
    assert "lab.py" in room.run("history", ADA).stdout
    assert "no version" in room.run("history", ADA, "nothing.py").stdout
    assert 'no student "nbtynobody"' in room.run("history", "nbtynobody", expect=3).stderr
    assert room.run("history", ADA, "../../etc/passwd", expect=3).stdout == ""


def test_a_snapshot_without_changes_keeps_nothing_twice_and_reads_nothing(room):
    file = write(ADA, "tutorial/lab.py", "one")
    write(BOB, "tutorial/other.py", "one")
    assert {name: one["changed"] for name, one in snapshot(room).items()} == {ADA: 1, BOB: 1}
    assert contents(room) == [b"one"]
    read = file.stat().st_atime_ns
    os.utime(file, ns=(1, file.stat().st_mtime_ns))
    snapshot(room)  # the times changed: it is read once more
    os.utime(file, ns=(1, file.stat().st_mtime_ns))
    size = (room.paths.history / "history.db").stat().st_size
    again = snapshot(room)
    again = snapshot(room)
    assert {one["status"] for one in again.values()} == {"unchanged"}
    assert contents(room) == [b"one"]
    assert (room.paths.history / "history.db").stat().st_size == size
    assert read


def test_what_was_deleted_can_be_brought_back_and_what_never_was_cannot(room):
    write(ADA, "tutorial/week1/lab.py", "precious")
    early = "2001-01-01 00:00"
    snapshot(room)
    before = now()
    as_student(ADA, "rm", "-r", "tutorial/week1")
    snapshot(room)
    after = now()
    room.run("restore", ADA, "week1/lab.py", "--at", before)
    (copy,) = (room.home(ADA) / "tutorial/week1").iterdir()
    assert copy.read_text() == "precious"
    assert "did not exist in the snapshot" in room.run("restore", ADA, "week1/lab.py", "--at", after, expect=3).stderr
    assert "there is no snapshot" in room.run("restore", ADA, "week1/lab.py", "--at", early, expect=3).stderr
    assert "is not a time" in room.run("restore", ADA, "week1/lab.py", "--at", "yesterday", expect=2).stderr


def test_the_times_that_history_shows_bring_back_the_versions_that_it_shows_them_for(room):
    file = write(ADA, "tutorial/lab.py", "one")
    snapshot(room)
    for text in ("second", "the third"):
        file.write_text(text)
        snapshot(room)
    shown = [line.split("  ")[0] for line in room.run("history", ADA, "lab.py").stdout.splitlines()[1:]]
    taken = [one["time"] for one in history(room, ADA)["snapshots"]]
    known = history(room, ADA, "lab.py")["versions"]
    assert [one["first"] for one in known] == taken
    for times in (shown, taken, [one["last"] for one in known]):
        for text, at in zip(("one", "second", "the third"), times, strict=True):
            path = json.loads(room.run("restore", ADA, "lab.py", "--at", at, "--json").stdout)["path"]
            copy = room.home(ADA) / path
            assert copy.read_text() == text, at
            label = copy.name.removeprefix("lab (version ").removesuffix(").py")
            assert json.loads(room.run("restore", ADA, "lab.py", "--at", label, "--json").stdout)["path"] == path
            copy.unlink()


def test_only_some_are_kept_and_a_dry_run_keeps_nothing(room):
    write(ADA, "tutorial/a", "a")
    assert f"snapshot of {ADA}" in room.run("snapshot", "--dry-run").stdout
    assert not room.paths.history.exists()
    snapshot(room, "--only", ADA)
    assert history(room, BOB)["snapshots"] == []


def test_one_students_bytes_cost_no_other_student_a_version(room):
    room.write(history={"budget": "4 MB"})
    essay = write(BOB, "tutorial/essay.txt", "first thoughts")
    snapshot(room)
    before = now()
    essay.write_text("second thoughts")
    for _ in range(5):
        write(ADA, "tutorial/noise", "").write_bytes(os.urandom(1_500_000))
        snapshot(room)
    assert [one["bytes"] for one in history(room, BOB, "essay.txt")["versions"]] == [14, 15]
    assert len(history(room, ADA, "noise")["versions"]) == 1
    room.run("restore", BOB, "essay.txt", "--at", before)
    assert [copy.read_text() for copy in essay.parent.glob("essay (version *")] == ["first thoughts"]


def test_a_copy_of_anothers_file_neither_takes_that_students_room_nor_gives_any(room):
    """Equal contents are on the disk once, and count for each student who has them."""
    room.write(history={"budget": "2 MB"})
    shared = os.urandom(600_000)
    for name in NAMES:
        write(name, "tutorial/shared", "").write_bytes(shared)
    used = {name: one["history_bytes"] for name, one in snapshot(room).items()}
    assert used[ADA] == used[BOB] > 600_000
    as_student(BOB, "rm", "tutorial/shared")
    after = snapshot(room)[ADA]
    assert (after["history_bytes"], after["history_above_share"]) == (used[ADA], False)
    assert shared in contents(room)


def test_the_material_counts_for_nobody_also_when_it_was_replaced(room):
    room.write(history={"budget": "1 MB"})
    source = room.folder / "material" / "data.bin"
    try:
        for _ in range(2):
            source.write_bytes(os.urandom(900_000))
            room.run("send")
            write(ADA, "tutorial/mine", "").write_bytes(os.urandom(100_000))
            kept = snapshot(room)
            assert {one["status"] for one in kept.values()} == {"done"}, kept
            assert all(one["history_bytes"] < 300_000 and not one["history_above_share"] for one in kept.values())
        assert len(history(room, BOB, "data.bin")["versions"]) == 2
    finally:
        source.unlink()


def test_a_student_above_the_share_is_named_by_snapshot_and_status(room):
    room.write(history={"budget": "1 MB"})
    file = write(ADA, "tutorial/data", "")
    write(BOB, "tutorial/data", "little")
    for _ in range(2):
        file.write_bytes(os.urandom(400_000))
        told = room.run("snapshot").stdout
    assert f"{ADA}: versions need 803 kB, and the share of the history is 500 kB; the oldest are deleted" in told
    assert BOB not in told
    entries = {one["username"]: one for one in room.json("status")["students"]}
    assert [entries[name]["history_above_share"] for name in NAMES] == [True, False]
    assert [entries[name]["history_share"] for name in NAMES] == [500_000, 500_000]
    assert 400_000 < entries[ADA]["history_bytes"] <= 500_000
    assert "share of the history" in entries[ADA]["reason"] and entries[BOB]["reason"] == ""
    snapshot(room)  # nothing changed, and the history is still shorter than it would be
    assert {one["username"]: one for one in room.json("status")["students"]}[ADA]["history_above_share"]
    room.write(history={"budget": "4 MB"})
    assert not {one["username"]: one for one in room.json("status")["students"]}[ADA]["history_above_share"]


@pytest.mark.parametrize("hides", [False, True], ids=["tiny files", "in folders that are shut afterwards"])
def test_no_trick_gets_beyond_the_share(room, hides):
    """A file of one byte takes a block; a folder that cannot be looked at is remembered, but not without end."""
    room.write(history={"budget": "2 MB"})
    essay = write(BOB, "tutorial/essay.txt", "precious")
    for number in range(4):
        script = (
            f"mkdir tutorial/{number}; for i in $(seq 200); do echo {number} $i > tutorial/{number}/$i; done"
            if not hides
            else f"mkdir tutorial/{number}; head -c 900000 /dev/urandom > tutorial/{number}/noise"
        )
        as_student(ADA, "sh", "-c", script)
        snapshot(room, expect=None)
        if hides:
            as_student(ADA, "chmod", "0", f"tutorial/{number}")
    blocks = [-(-len(one) // 4096) * 4096 for one in contents(room) if one != b"precious"]
    assert 0 < sum(blocks) <= 1_000_000
    assert essay.read_bytes() in contents(room)
    as_student(ADA, "sh", "-c", "chmod 700 tutorial/*")


def test_a_student_whose_folder_cannot_be_kept_is_behind_the_others(room):
    snapshot(room)
    room.home(ADA).chmod(0)
    try:
        snapshot(room, expect=5)
        plan = room.run("snapshot", "--dry-run").stdout
    finally:
        room.home(ADA).chmod(0o700)
    assert plan.index(f"snapshot of {BOB}") < plan.index(f"snapshot of {ADA}")


def test_the_budget_is_never_exceeded_and_the_oldest_make_room(room):
    room.write(history={"budget": "1 MB"})
    file = write(ADA, "tutorial/data", "")
    for _number in range(6):
        file.write_bytes(os.urandom(400_000))
        snapshot(room)
        assert sum(map(len, contents(room))) <= 1_000_000
        last = history(room, ADA, "data")["versions"][-1]
        assert last["present"] and last["bytes"] == 400_000
    assert file.read_bytes() in contents(room)
    assert 1 <= len(history(room, ADA, "data")["versions"]) <= 2


def test_what_does_not_fit_at_all_is_said_and_the_rest_is_kept(room):
    room.write(history={"budget": "1 MB"})
    write(ADA, "tutorial/big", "").write_bytes(os.urandom(1_200_000))
    write(ADA, "tutorial/small", "small")
    kept = snapshot(room, expect=5)
    assert kept[ADA]["exceptions"] == [
        {"path": "big", "reason": "the student's share of the history is used up", "incomplete": True}
    ]
    assert contents(room) == [b"small"]
    assert history(room, ADA)["snapshots"][-1]["complete"] is False


def test_what_is_kept_while_room_is_made_is_there_afterwards(room):
    """Room is made, and it is not enough: the small file was kept before, and is in the snapshot after it."""
    room.write(history={"budget": "1 MB"})
    file = write(ADA, "tutorial/data", "")
    for _ in range(2):
        file.write_bytes(os.urandom(300_000))
        snapshot(room)
    file.write_bytes(os.urandom(1_100_000))
    write(ADA, "tutorial/a-small-one", "small")
    snapshot(room, expect=5)
    before = now()
    kept = {file.parent.name + file.name for file in (room.paths.history / "objects").rglob("*") if file.is_file()}
    known = [one["sha256"] for path in history(room, ADA)["paths"] for one in history(room, ADA, path)["versions"]]
    assert known and set(known) <= kept
    room.run("restore", ADA, "a-small-one", "--at", before)


def test_old_snapshots_go_by_count_and_a_kept_version_never_breaks(room):
    room.write(history={"keep": 3})
    file = write(ADA, "tutorial/lab", "")
    steady = write(ADA, "tutorial/steady", "always the same")
    for number in range(6):
        file.write_text(f"version {number}")
        snapshot(room)
    snapshot(room)
    kept = history(room, ADA, "lab")["versions"]
    assert [one["bytes"] for one in kept] == [9, 9]
    assert set(contents(room)) == {b"version 4", b"version 5", steady.read_bytes()}
    assert len(history(room, ADA)["snapshots"]) == 3
    assert len(history(room, ADA, "steady")["versions"]) == 1


def test_a_clock_that_is_set_back_puts_nothing_out_of_order(room):
    file = write(ADA, "tutorial/lab", "one")
    snapshot(room)
    with sqlite3.connect(room.paths.history / "history.db") as connection:
        connection.execute("UPDATE snapshots SET time = time + 86400")
    connection.close()
    file.write_text("two")
    snapshot(room)
    assert [one["present"] for one in history(room, ADA, "lab")["versions"]] == [False, True]
    room.run("restore", ADA, "lab", "--at", now())
    assert [copy.read_text() for copy in file.parent.glob("lab (version *)")] == ["two"]


def test_a_damaged_content_is_said_and_never_restored(room):
    write(ADA, "tutorial/lab", "one")
    snapshot(room)
    (damaged,) = [file for file in (room.paths.history / "objects").rglob("*") if file.is_file()]
    damaged.write_text("two")
    assert "damaged" in room.run("restore", ADA, "lab", "--at", now(), expect=1).stderr
    assert [file.name for file in (room.home(ADA) / "tutorial").iterdir()] == ["lab"]


def test_a_full_disk_costs_a_snapshot_and_nothing_that_was_kept(room):
    file = write(ADA, "tutorial/lab", "one")
    folder = room.paths.history
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)], check=True)
    try:
        snapshot(room)
        file.write_bytes(os.urandom(3_000_000))
        failed = snapshot(room, "--only", ADA, expect=1)
        assert "is full" in failed[ADA]["error"]
        assert contents(room) == [b"one"]
        assert [one["bytes"] for one in history(room, ADA, "lab")["versions"]] == [3]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_killed_snapshot_is_simply_taken_again(room, line):
    for name in NAMES:
        for number in range(5):
            write(name, f"tutorial/file{number}", f"{name} {number}" * 2000)
    process = room.start("snapshot")
    for text in process.stderr:
        if text.startswith(f"[{line}/"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    snapshot(room)
    again = snapshot(room)
    assert {one["files"] for one in again.values()} == {5}
    assert len(contents(room)) == 10
    assert not list((room.paths.history / "objects").glob(".new-*"))


def test_a_restore_that_is_killed_leaves_a_whole_copy_or_none(room):
    content = os.urandom(2_000_000)
    file = write(ADA, "tutorial/data", "")
    file.write_bytes(content)
    snapshot(room)
    before = now()
    for delay in (0.2, 0.3, 0.4, 0.5, 0.6):
        process = room.start("restore", ADA, "data", "--at", before)
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert {copy.read_bytes() for copy in file.parent.glob("data (version *)")} <= {content}
    room.run("restore", ADA, "data", "--at", before)
    assert {copy.read_bytes() for copy in file.parent.glob("data (version *)")} == {content}
    assert len(list(file.parent.iterdir())) == 2


def test_links_and_hostile_folders_gain_nothing(room):
    secret = room.folder / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    as_student(ADA, "ln", "-s", str(secret), "tutorial/link")
    as_student(ADA, "mkfifo", "tutorial/fifo")
    write(ADA, "tutorial/week/lab", "mine")
    snapshot(room)
    before = now()
    assert contents(room) == [b"mine"]
    as_student(ADA, "sh", "-c", f"rm -r tutorial/week; ln -s {room.folder} tutorial/week")
    failed = room.run("restore", ADA, "week/lab", "--at", before, expect=1)
    assert "something else is where its folder should be" in failed.stderr
    assert {file.name for file in room.folder.iterdir()} >= {"secret"}
    assert not list(room.folder.glob("lab*"))


def test_names_that_are_no_text_are_kept_and_come_back(room):
    as_student(
        ADA, "bash", "-c", r"printf mine > $'tutorial/\xff\xfe.py'; mkdir $'tutorial/\xe9'; echo > $'tutorial/\xe9/x'"
    )
    snapshot(room)
    before = now()
    snapshot(room)
    assert set(history(room, ADA)["paths"]) == {"\udcff\udcfe.py", "\udce9/x"}
    room.run("history", ADA)
    room.run("restore", ADA, os.fsdecode(b"\xff\xfe.py"), "--at", before)
    names = {os.fsencode(file.name) for file in (room.home(ADA) / "tutorial").iterdir()}
    assert any(name.startswith(b"\xff\xfe (version") for name in names), names


def test_what_could_not_be_looked_at_is_not_taken_for_gone(room):
    write(ADA, "tutorial/closed/lab", "mine")
    write(ADA, "tutorial/open", "mine")
    snapshot(room)
    as_student(ADA, "sh", "-c", "chmod 0 tutorial/closed; rm tutorial/open")
    snapshot(room, expect=5)
    assert history(room, ADA, "closed/lab")["versions"][0]["present"] is True
    assert history(room, ADA, "open")["versions"][0]["present"] is False
    as_student(ADA, "chmod", "700", "tutorial/closed")


def test_who_is_removed_leaves_no_history(room):
    write(BOB, "tutorial/lab", "bob's alone")
    write(ADA, "tutorial/lab", "ada's")
    snapshot(room)
    room.run("remove", "--only", BOB, "--yes")
    assert contents(room) == [b"ada's"]
    room.run("setup")
    assert history(room, BOB)["snapshots"] == []


def test_the_folder_is_roots_alone(room):
    write(ADA, "tutorial/lab", "x")
    snapshot(room)
    folder = Path(room.paths.history)
    assert {(one.stat().st_uid, one.stat().st_mode & 0o077) for one in (folder, *folder.rglob("*"))} == {(0, 0)}
