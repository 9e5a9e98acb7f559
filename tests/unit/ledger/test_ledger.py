"""host.db and course.db."""

import os
import signal
import sqlite3
import stat
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nblauncher.errors import BusyError, HostError
from nblauncher.ledger import CourseLedger, CourseRecord, HostLedger, Retrieval, locked, locks
from nblauncher.model import Account, Deadline, HandedOut

ADA = Account("ada", 20001, 20001, Path("/home/ada"), "/bin/bash", "nbl-1")
BOB = Account("bob", 20002, 20002, Path("/home/bob"), "/bin/bash", "nbl-2")
SHEET = HandedOut("00", 3, 1, 2, 3)


@pytest.fixture
def host(tmp_path):
    return HostLedger(tmp_path / "state" / "host.db")


@pytest.fixture
def course(tmp_path):
    return CourseLedger(tmp_path / "state" / "course.db")


def test_an_empty_ledger_reads_as_empty_and_makes_no_file(host):
    assert (host.claims(), host.members("c"), host.courses(), host.spent_uids()) == ({}, {}, (), frozenset())
    assert not host.file.exists()


def test_the_ledger_is_for_root_alone(host):
    host.claim_accounts([ADA], is_guest=False)
    assert stat.S_IMODE(host.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.file.parent.stat().st_mode) == 0o700


def test_a_claim_is_an_intention_until_the_account_is_made(host):
    host.claim_accounts([ADA], is_guest=False)
    assert host.claim("ada").stage == "intended"
    host.made_account(ADA)
    assert host.claim("ada").stage == "made"
    assert host.claim("ada").account == ADA


def test_two_names_never_share_a_uid(host):
    host.claim_accounts([ADA], is_guest=False)
    with pytest.raises(HostError, match="already recorded for ada"):
        host.claim_accounts([Account("eve", ADA.uid, 1, Path("/home/eve"))], is_guest=False)
    assert "eve" not in host.claims()


def test_an_account_without_a_course_is_forgotten_but_its_uid_stays_spent(host):
    host.claim_accounts([ADA], is_guest=False)
    host.join("c1", {"ada": 8001})
    host.join("c2", {"ada": 9001})
    host.leave("c1", "ada")
    assert host.claim("ada") is not None
    host.leave("c2", "ada")
    assert host.claim("ada") is None
    assert host.spent_uids() == {ADA.uid}


def test_a_port_is_kept_for_good_and_never_given_again_in_the_course(host):
    host.join("c1", {"ada": 8001})
    host.join("c1", {"ada": 8044})
    assert host.members("c1")["ada"].port == 8001
    host.leave("c1", "ada")
    assert host.spent_ports("c1") == {8001}


def test_members_come_in_the_order_in_which_they_joined(host):
    host.join("c1", {"zoe": 8001})
    host.join("c1", {"ada": 8002})
    assert list(host.members("c1")) == ["zoe", "ada"]


def test_a_course_is_recorded_once_and_can_be_forgotten(host):
    record = CourseRecord("c1", "prof", 1000, "/etc/c1.cfg", 8000, True)
    host.record_course(record)
    host.record_course(record)
    assert host.courses() == (record,)
    host.forget_course("c1")
    assert host.courses() == ()


def test_records_of_an_old_uid_are_void(course):
    course.begin_students({"ada": 20001, "bob": 20002})
    course.record_handed_out("ada", "material", {"lab.ipynb": SHEET})
    course.record_handed_out("bob", "material", {"lab.ipynb": SHEET})
    course.set_passwords_done(["ada"])
    course.record_retrievals([Retrieval("changed", "t", "ada", 20001, "d", True)])
    course.begin_students({"ada": 20009, "bob": 20002})
    assert course.handed_out("ada", "material") == {}
    assert course.with_passwords() == frozenset()
    assert course.last_retrievals("changed") == {}
    assert course.handed_out("bob", "material") == {"lab.ipynb": SHEET}


def test_what_was_handed_out_is_kept_apart_by_kind_and_student(course):
    course.begin_students({"ada": 1, "bob": 2})
    course.record_handed_out("ada", "material", {"a": SHEET})
    course.record_handed_out("ada", "profile", {"b": SHEET})
    assert course.all_handed_out("material") == {"ada": {"a": SHEET}}
    assert course.handed_out("ada", "profile") == {"b": SHEET}


def test_a_damaged_ledger_stops_the_program(host):
    host.claim_accounts([ADA], is_guest=False)
    host.file.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(HostError, match="cannot be used"):
        host.claims()


def test_a_newer_ledger_stops_the_program(host):
    host.claim_accounts([ADA], is_guest=False)
    connection = sqlite3.connect(host.file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HostError, match="newer nblauncher"):
        host.claim_accounts([BOB], is_guest=False)


def test_a_failed_transaction_leaves_nothing(host):
    host.claim_accounts([ADA], is_guest=False)
    with pytest.raises(HostError):
        host.claim_accounts([BOB, Account("eve", ADA.uid, 1, Path("/home/eve"))], is_guest=False)
    assert set(host.claims()) == {"ada"}


def test_whoever_looks_first_after_a_kill_undoes_the_unfinished_write(host):
    host.claim_accounts([ADA], is_guest=False)
    pid = os.fork()
    if pid == 0:
        with sqlite3.connect(host.file, isolation_level=None) as connection:
            connection.execute("PRAGMA cache_size = 1")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM accounts")
            connection.executemany("INSERT INTO spent_uids VALUES (?)", [(number,) for number in range(20000)])
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert host.file.with_name("host.db-journal").stat().st_size > 0
    assert (list(host.claims()), host.spent_uids()) == (["ada"], frozenset({ADA.uid}))


def test_a_second_run_waits_and_then_says_who_is_busy(tmp_path):
    file = tmp_path / "lock"
    os.mkfifo(tmp_path / "end")
    pid = os.fork()
    if pid == 0:
        with locked(file, "course c1"):
            (tmp_path / "held").touch()
            os.read(os.open(tmp_path / "end", os.O_RDONLY), 1)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        assert locks.PATIENCE == 10
        with pytest.raises(BusyError, match="course c1"), locked(file, "course c1", patience=0.2):
            pass
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with locked(file, "course c1"):
        assert file.exists()


def test_a_lock_whose_file_was_deleted_keeps_nobody_out_and_is_taken_anew(tmp_path):
    file = tmp_path / "course" / "lock"
    held: list[bool] = []

    def wait() -> None:
        with locked(file, "course c1") as descriptor:
            held.append(os.path.samestat(os.fstat(descriptor), os.stat(file)))

    waiting = threading.Thread(target=wait)
    with locked(file, "course c1"):
        waiting.start()
        while _times_open(file) < 2:
            assert waiting.is_alive()
        file.unlink()
        file.parent.rmdir()
    waiting.join()
    assert held == [True]


def _times_open(file: Path) -> int:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(link) and os.readlink(link) == str(file) for link in links)


def test_a_course_that_is_set_up_again_is_another_one(course):
    assert course.identity() == ""
    course.begin_students({"ada": 20001})
    first = course.identity()
    course.begin_students({"bob": 20002})
    assert len(first) == 32 and course.identity() == first
    course.file.unlink()
    course.begin_students({"ada": 20001})
    assert course.identity() != first


def test_what_belongs_to_a_course_that_is_gone_does_not_bring_it_back(course, tmp_path):
    for act in (
        course.settle,
        lambda: course.extend("ps1", "ada", timedelta(minutes=5)),
        lambda: course.cancel_deadlines(["ps1"]),
        lambda: course.record_captures([]),
        lambda: course.record_failed_captures({}),
    ):
        with pytest.raises(HostError, match="there is no ledger"):
            act()
    with (
        pytest.raises(HostError, match="was removed"),
        locked(course.file.with_name("captures.lock"), "course", makes_folder=False),
    ):
        pass
    assert not (tmp_path / "state").exists()


def test_more_time_for_one_scheduled_capture_is_not_the_next_ones(course):
    at = datetime(2026, 11, 27, 16, tzinfo=timezone.utc)
    course.begin_students({"ada": 20001})
    course.add_deadline(Deadline("ps1", "ps1", at))
    course.extend("ps1", "ada", timedelta(hours=1))
    course.extend("exam", "ada", timedelta(hours=1))
    course.add_deadline(Deadline("ps1", "ps1", at))
    assert set(course.extensions()) == {("exam", "ada")}
    course.cancel_deadlines(["ps1", "exam"])
    assert course.extensions() == {} and course.deadlines() == ()
