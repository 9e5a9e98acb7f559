"""What students are told: servers that sleep or were adopted, who may read it, full disks, and a teacher's visit."""

from __future__ import annotations

import os
import pwd
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nblauncher.auth import tickets
from nblauncher.isolation import quotas
from nblauncher.model import Account
from nblauncher.server import notices
from nblauncher.server.notices import Notices
from nblauncher.system import workers
from tests import envelope, launched, visits
from tests.classroom import Classroom
from tests.running import eventually

pytestmark = pytest.mark.system

ADA, BOB = "nbtmnada", "nbtmnbob"
PORT = 20650


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    made = Classroom("nbtm-told", [ADA, BOB], port=PORT, first_uid=27550)
    try:
        made.write(limits={"disk": "20 MB"})
        made.run("setup")
        made.run("launch", "--background", "--on-demand")
        yield made
    finally:
        made.close()


def account_of(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def file_of(room: Classroom, name: str) -> Path:
    return notices.file_of(room.paths.run, account_of(name).uid)


def test_a_server_that_slept_shows_what_was_said_meanwhile(room):
    answer = room.run("message", "Room 2 from now on", "--json").stdout
    said = envelope.checked(answer, 0, "message")
    assert said["seen_by"] == [ADA, BOB] and launched.states(room)[ADA] == "asleep"
    with launched.visitor(room, ADA) as ada:
        assert visits.shown(ada) == [("message", "Room 2 from now on")]
    envelope.checked(room.run("message", "--clear", "--json").stdout, 0, "message")
    for words in (("message", "a\tb"), ("message", "x", "--until", "25:00"), ("message", "x", "--only", "nobody")):
        envelope.checked(room.run(*words, "--json", expect=3).stdout, 3, "message")
    envelope.checked(room.run("message", "x", "--dry-run", "--json").stdout, 0, "message", is_dry_run=True)


@pytest.mark.adoption
def test_a_message_outlives_its_supervisor_and_adopted_servers_hear_the_next_one(room):
    room.run("message", "before")
    with launched.visitor(room, ADA) as ada:
        pid = launched.supervisor_pid(room)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        assert "does not run" in room.run("message", "nobody hears this", expect=4).stderr
        assert visits.shown(ada) == [("message", "before")]
        room.run("launch", "--background")
        assert visits.shown(ada) == [("message", "before")]
        assert "before" in ada.http.get(f"https://localhost:{PORT}/").text
        room.run("message", "after", "--only", ADA)
        assert visits.shown(ada) == [("message", "before"), ("message", "after")]
    with launched.visitor(room, BOB) as bob:
        assert visits.shown(bob) == [("message", "before")]
    room.run("message", "--clear")


def poke(file: str, folder: str, control: str) -> list[str]:
    """What a student can do to another's notices, to the folder and to the supervisor."""
    done = []
    for name, act in (
        ("read", lambda: Path(file).read_bytes()),
        ("write", lambda: Path(file).write_bytes(b"")),
        ("unlock", lambda: os.chmod(file, 0o666)),
        ("replace", lambda: os.rename(__file__, file)),
        ("remove", lambda: os.unlink(file)),
        ("add", lambda: Path(folder, "1.json").write_bytes(b"")),
        ("list", lambda: os.listdir(folder)),
        ("ask", lambda: socket.socket(socket.AF_UNIX).connect(control)),
    ):
        try:
            act()
        except OSError:
            continue
        done.append(name)
    return done


def test_no_student_reads_or_changes_what_another_is_told(room):
    room.run("message", "only for ada", "--only", ADA)
    file, bob = file_of(room, ADA), account_of(BOB)
    assert workers.run_as(bob, poke, str(file), str(file.parent), str(room.paths.supervisor_socket)) == []
    assert Notices.parse(file.read_bytes()).messages[0].text == "only for ada"
    assert b"ada" not in file_of(room, BOB).read_bytes()
    room.run("message", "--clear")


def spoil(file: str) -> None:
    os.chmod(file, 0o600)
    Path(file).write_bytes(b'{"messages": [[1')


def test_a_student_who_spoils_their_own_sees_nothing_until_something_is_said(room):
    room.run("message", "hello")
    with launched.visitor(room, ADA) as ada:
        workers.run_as(account_of(ADA), spoil, str(file_of(room, ADA)))
        assert visits.shown(ada) == []
        room.run("message", "hello again")
        assert visits.shown(ada) == [("message", "hello again")]
    room.run("message", "--clear")


def fill(folder: str, size: int) -> None:
    Path(folder, "big").write_bytes(b"x" * size)


def test_a_student_whose_disk_is_nearly_full_is_warned_until_there_is_room(room):
    ada = account_of(ADA)
    if quotas.read(ada.home, ada.uid) is not None:
        pytest.skip("this file system has quotas: the server asks for its own")
    workers.run_as(ada, fill, str(ada.home), 19_000_000)
    room.run("watch-disks", "--unattended", room.course)
    with launched.visitor(room, ADA) as browser:
        ((kind, text),) = visits.shown(browser)
        assert kind == "disk" and "of 20 MB" in text and "delete" in text
        workers.run_as(ada, fill, str(ada.home), 0)
        room.run("watch-disks", "--unattended", room.course)
        assert visits.shown(browser) == []


def test_a_visit_is_one_students_bounded_and_ended_by_the_teacher(room):
    with launched.visitor(room, ADA) as ada, visits.new_teacher(room, ADA) as teacher:
        answer = envelope.checked(room.run("open", ADA, "--json").stdout, 0, "open")
        given = visits.tickets(teacher, answer["link"])
        others = workers.run_as(account_of(BOB), tickets.redeem, room.paths.tickets_socket, given["ticket"])
        assert not others, "the ticket is for ada's server"
        assert visits.arrive(teacher, given).status_code == 200
        assert "You are here" in visits.shown(teacher)[0][1] and "Your teacher" in visits.shown(ada)[0][1]
        (visit,) = Notices.parse(file_of(room, ADA).read_bytes()).visits
        assert visit.until - visit.at == 3600
        notebook = teacher.connect("api/events/subscribe")
        assert visits.arrive(teacher, given).status_code == 403, "a ticket works once"
        room.run("open", ADA, "--end")
        assert teacher.http.get("api/status").status_code == 403
        notebook.settimeout(20)
        while event := notebook.recv():  # what was sent before it was closed
            assert "urn:nblauncher:notices:1" in event
        assert visits.shown(ada) == []


def test_the_teacher_wakes_a_server_that_sleeps_and_no_other_account_gets_a_link(room):
    room.run("shutdown", "--only", BOB)
    room.run("launch", "--background", "--on-demand")
    assert launched.states(room)[BOB] == "asleep"
    with visits.new_teacher(room, BOB) as teacher:
        assert visits.follow(room, teacher, BOB).status_code == 200
        assert launched.states(room)[BOB] == "ready"
    refused = room.run("open", "nbtmnnobody", expect=3)
    assert "no student" in refused.stderr and "open.html" not in refused.stdout


def test_a_link_to_a_student_who_is_locked_out_is_refused(room):
    room.run("lock", BOB)
    try:
        refused = room.run("open", BOB, expect=4)
        assert "locked out" in refused.stderr and "unlock" in refused.stderr
    finally:
        room.run("unlock", BOB)
