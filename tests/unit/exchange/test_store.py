"""The teacher's store: staging and publishing, and a stream that lies."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nblauncher.config import times
from nblauncher.config.settings import RetrieveSettings
from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange.retrieve import store, teacher_side
from nblauncher.exchange.retrieve.scope import CHANGED, HOME, Scope
from nblauncher.exchange.retrieve.tree import Tree
from nblauncher.exchange.rows import stored_row
from nblauncher.model import Account
from nblauncher.system import workers

NINE = datetime(2026, 11, 20, 9, 15, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture
def owner():
    return Account("me", os.geteuid(), os.getegid(), Path("/"))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "retrieved"


def test_a_retrieval_appears_whole_under_its_time_and_latest_leads_there(owner, target):
    staging = store.open_staging(owner, target, NINE)
    assert target.stat().st_mode & 0o777 == 0o700
    (target / staging.name / "ada").mkdir()
    assert store.publish(owner, staging) == "2026-11-20T091500+0100"
    assert os.readlink(target / "latest") == "2026-11-20T091500+0100"
    assert sorted(os.listdir(target)) == ["2026-11-20T091500+0100", "latest"]


def test_a_taken_time_gets_a_number_and_nothing_is_overwritten(owner, target):
    names = []
    for username in ("ada", "bob", "eve"):
        staging = store.open_staging(owner, target, NINE)
        (target / staging.name / username).mkdir()
        names.append(store.publish(owner, staging))
    assert names == [f"2026-11-20T091500+0100{ending}" for ending in ("", "-2", "-3")]
    assert [os.listdir(target / name) for name in names] == [["ada"], ["bob"], ["eve"]]
    assert os.readlink(target / "latest") == names[-1]


def test_what_is_a_part_says_so_in_its_name_and_is_not_the_latest(owner, target):
    names = []
    for part in ("", "only-ada", "only-ada", "ps1"):
        staging = store.open_staging(owner, target, NINE)
        (target / staging.name / "ada").mkdir()
        names.append(store.publish(owner, staging, part))
    assert names == [f"2026-11-20T091500+0100{ending}" for ending in ("", "-only-ada", "-only-ada-2", "-ps1")]
    assert os.readlink(target / "latest") == names[0]
    assert [store.is_full(name) for name in [*names, f"{names[0]}-2"]] == [True, False, False, False, True]
    for name in names:  # and every one is a time that can be typed
        assert times.parsed(name) == NINE


@pytest.mark.parametrize(
    "folder, part",
    [
        ("ps1", "ps1"),
        ("week 1/ps1", "week-1-ps1"),
        ("Übung 1", "Ubung-1"),
        ("..weird--", "weird"),
        ("7", "folder-7"),
        ("only-ada", "folder-only-ada"),
        ("removed", "folder-removed"),
        ("宿題", "folder"),
        ("a" * 300, "a" * 40),
    ],
)
def test_a_folder_of_the_material_in_a_name_is_short_and_takes_nothing_elses_name(folder, part):
    assert store.folder_part(folder) == part
    assert not store.is_full(f"2026-11-20T091500+0100-{part}")
    assert times.parsed(f"2026-11-20T091500+0100-{part}") == NINE


def test_students_in_a_name_are_one_by_name_or_a_number():
    members = ["ada", "bob", "eve"]
    parts = [store.students_part(wanted, members) for wanted in (["ada"], ["ada", "eve"], members)]
    assert parts == ["only-ada", "only-2-students", ""]


def test_a_discarded_staging_leaves_nothing(owner, target):
    staging = store.open_staging(owner, target, NINE)
    (target / staging.name / "ada" / "work").mkdir(parents=True)
    (target / staging.name / "ada" / "work" / "lab1").write_bytes(b"x")
    store.discard(owner, staging)
    assert os.listdir(target) == []


def test_what_a_killed_run_left_is_cleaned_by_the_next_and_a_running_ones_is_not(owner, target):
    running = store.open_staging(owner, target, NINE)
    pid = os.fork()
    if pid == 0:
        killed = store.open_staging(owner, target, NINE)
        (target / killed.name / "ada").mkdir()
        os.symlink("x", target / ".latest-0123456789abcdef")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (target / ".2026-11-20T091500+0100.partial-mine").mkdir()
    assert len(os.listdir(target)) == 4
    next_one = store.open_staging(owner, target, NINE)
    assert set(os.listdir(target)) == {running.name, next_one.name, ".2026-11-20T091500+0100.partial-mine"}
    store.discard(owner, next_one)
    store.discard(owner, running)


def test_a_store_that_is_not_the_teachers_alone_is_refused(owner, target):
    target.mkdir(mode=0o700)
    target.chmod(0o770)
    with pytest.raises(RefusedError, match="written by other accounts"):
        store.open_staging(owner, target, NINE)
    target.chmod(0o755)
    (target / "latest").mkdir()
    with pytest.raises(RefusedError, match="latest"):
        store.open_staging(owner, target, NINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_store_of_another_account_is_refused(owner, target):
    target.mkdir(mode=0o700)
    os.chown(target, 22098, 22098)
    with pytest.raises(RefusedError, match="belongs to uid 22098"):
        store.open_staging(owner, target, NINE)


def begun(path, size, kind="begin"):
    return {"kind": kind, "path": path, "stamp": [size, 10**9, 10**9, 7]}


@pytest.fixture
def receive(tmp_path):
    """Feed frames to the teacher's side and get its answer. No child and no root: the code alone."""

    def feed(*frames, kind=CHANGED, **limits):
        (tmp_path / "staging").mkdir(exist_ok=True)
        settings = RetrieveSettings(tmp_path, **limits)
        order = teacher_side.Order(tmp_path, "staging", "ada", Scope(kind, "tutorial"), settings, "now")
        stream, output = os.pipe()
        known, tell = os.pipe()
        for frame in frames:
            header, payload = frame if isinstance(frame, tuple) else (frame, b"")
            workers.write_frame(output, header, payload)
        os.close(output)
        try:
            return teacher_side.receive(order, stream, tell, 5.0)
        finally:
            os.close(stream)
            os.close(known)

    return feed


FINISH = {"kind": "finish"}


def test_a_stream_becomes_files(receive, tmp_path):
    answer = receive(
        (begun("work/a", 3, "file"), b"abc"),
        begun("work/b/c", 4), ({"kind": "data"}, b"ab"), {"kind": "tick"}, ({"kind": "data"}, b"cd"), {"kind": "end"},
        begun("work/d", 4), ({"kind": "data"}, b"ab"), {"kind": "void"}, (begun("work/d", 2, "file"), b"ef"),
        {"kind": "excluded", "path": "work/x", "reason": "a link", "incomplete": False},
        FINISH,
    )  # fmt: skip
    ada = tmp_path / "staging" / "ada"
    assert {path: (ada / path).read_bytes() for path in ("work/a", "work/b/c", "work/d")} == {
        "work/a": b"abc", "work/b/c": b"abcd", "work/d": b"ef",
    }  # fmt: skip
    left_out = {"path": "work/x", "reason": "a link", "incomplete": False}
    assert (answer["files"], answer["bytes"], answer["exclusions"]) == (3, 9, [left_out])
    assert [one["path"] for one in json.loads((ada / "manifest.json").read_text())["files"]] == [
        "work/a", "work/b/c", "work/d",
    ]  # fmt: skip


LIES = {
    "a path that leads out": [(begun("work/../../x", 1, "file"), b"x")],
    "an absolute path": [(begun("/tmp/nbtr-x", 1, "file"), b"x")],
    "another's folder": [(begun("../bob/work/x", 1, "file"), b"x")],
    "the manifest": [(begun("manifest.json", 1, "file"), b"x")],
    "a file in place of work/": [(begun("work", 1, "file"), b"x")],
    "home/ without being asked": [(begun("home/x", 1, "file"), b"x")],
    "a NUL": [(begun("work/a\0b", 1, "file"), b"x")],
    "too deep": [(begun("work/" + "/".join("a" * 70), 1, "file"), b"x")],
    "no path": [({"kind": "file", "stamp": [1, 1, 1, 1]}, b"x")],
    "a path that is not a text": [({"kind": "file", "path": ["work", "x"], "stamp": [1, 1, 1, 1]}, b"x")],
    "no stamp": [({"kind": "file", "path": "work/x"}, b"x")],
    "a negative size": [begun("work/x", -1)],
    "a fraction of a byte": [begun("work/x", 1.5)],
    "more bytes than announced": [(begun("work/x", 1, "file"), b"xx")],
    "fewer bytes than announced": [(begun("work/x", 3, "file"), b"xx")],
    "a file over max_file": [begun("work/x", 1001)],
    "more than max_student": [(begun(f"work/{i}", 900, "file"), b"x" * 900) for i in range(3)],
    "more than max_files": [(begun(f"work/{i}", 0, "file"), b"") for i in range(12)],
    "a file twice": [(begun("work/x", 1, "file"), b"x")] * 2,
    "a file the store never had": [{"kind": "same", "files": [stored_row("work/x", [1, 1, 1, 1], "0" * 64)]}],
    "the same of nothing": [{"kind": "same"}],
    "the same by position": [{"kind": "same", "files": [["work/x", [1, 1, 1, 1], "0" * 64]]}],
    "the same of something else": [{"kind": "same", "files": [{"path": "work/x", "stamp": [1, 1, 1, 1]}]}],
    "a name that no file can have": [(begun("work/\ud800", 1, "file"), b"x")],
    "data out of turn": [({"kind": "data"}, b"x")],
    "an end out of turn": [{"kind": "end"}],
    "a beginning within a file": [begun("work/x", 3), begun("work/y", 3)],
    "a finish within a file": [begun("work/x", 3)],
    "an unknown word": [{"kind": "delete"}],
    "no word": [{}],
    "an endless list of exclusions": [{"kind": "excluded", "path": "p", "reason": "r"}] * 1100,
    "an exclusion of nothing": [{"kind": "excluded", "path": 1, "reason": "r"}],
}


@pytest.mark.parametrize("frames", LIES.values(), ids=LIES)
def test_a_stream_that_lies_is_refused_and_writes_nothing_outside(receive, tmp_path, frames):
    with pytest.raises(HostError):
        receive(*frames, FINISH, max_file=1000, max_student=2000, max_files=10)
    assert os.listdir(tmp_path) == ["staging"]
    assert os.listdir(tmp_path / "staging") == ["ada"]
    assert set(os.listdir(tmp_path / "staging" / "ada")) <= {"work"}


def test_a_stream_without_its_end_is_no_retrieval(receive):
    with pytest.raises(HostError, match="stopped before its end"):
        receive((begun("work/a", 3, "file"), b"abc"))


def test_times_that_no_calendar_has_do_no_harm(receive, tmp_path):
    for number, mtime in enumerate((-(10**12), 2**70, -(2**70), 10**30)):
        frame = {"kind": "file", "path": f"work/{number}", "stamp": [1, mtime, 0, 0]}
        receive((frame, b"x"), FINISH)
        entry = json.loads((tmp_path / "staging/ada/manifest.json").read_text())["files"][0]
        assert entry["mtime"] is None or entry["mtime"].startswith("1969")
        os.rename(tmp_path / "staging", tmp_path / f"done{number}")


def test_thousands_of_exclusions_are_in_the_manifest_and_the_worst_in_the_answer(receive, tmp_path):
    frames = [{"kind": "excluded", "path": f"work/{i}", "reason": "a link", "incomplete": i == 300} for i in range(400)]
    answer = receive(*frames, FINISH)
    assert len(answer["exclusions"]) == 201
    assert answer["exclusions"][0] == {"path": "work/300", "reason": "a link", "incomplete": True}
    assert answer["exclusions"][-1] == {
        "path": "manifest.json",
        "reason": "lists 200 more",
        "incomplete": False,
    }
    manifest = json.loads((tmp_path / "staging/ada/manifest.json").read_text())
    assert len(manifest["exclusions"]) == 400 and manifest["complete"] is False


def test_before_a_deletion_bytes_have_no_limit_but_the_disk_has(receive):
    receive((begun("home/x", 2000, "file"), b"x" * 2000), FINISH, kind=HOME, max_file=1000, max_student=1000)


def test_a_file_larger_than_the_disk_is_not_begun(receive):
    with pytest.raises(HostError, match="disk full"):
        receive(begun("home/x", 1 << 60), kind=HOME)


def test_several_children_make_the_same_folder_at_the_same_time(tmp_path):
    """Each of them puts a file into `submitted/`, which none of them found."""
    children = []
    for number in range(8):
        if (pid := os.fork()) == 0:
            status = 1
            try:
                for round_ in range(50):
                    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
                    os.close(Tree(folder).create((f"submitted{round_}", f"file{number}")))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
