"""What students are told: what the supervisor keeps, writes for each student, and takes over after a crash."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from nblauncher.server import notices
from nblauncher.server.notices import Notices
from nblauncher.supervisor.notices import RECORD, Board
from tests.fakes import Clock

ME = os.geteuid()
DIGEST = hashlib.sha256(b"secret").hexdigest()


class Class:
    """A board with files. All uids are ours, plus a number in the file's name: only root may give files away."""

    def __init__(self, run: Path, *names: str) -> None:
        self.clock = Clock()
        self.uids = dict.fromkeys(names, ME)
        self.board = Board(run, lambda: self.uids, now=self.clock)
        self.run = run

    def read(self) -> Notices:
        return Notices.parse(notices.file_of(self.run, ME).read_bytes())


@pytest.fixture
def room(tmp_path: Path) -> Class:
    return Class(tmp_path, "ada")


def test_a_students_file_is_the_students_alone_in_a_folder_that_only_its_owner_changes(room: Class):
    room.board.say(None, "Five minutes left", None)
    file = notices.file_of(room.run, ME)
    assert file.stat().st_mode & 0o7777 == 0o400 and file.stat().st_uid == ME
    assert file.parent.stat().st_mode & 0o7777 == 0o711
    assert (room.run / RECORD).stat().st_mode & 0o7777 == 0o600


def test_a_message_is_replaced_by_the_next_and_cleared(room: Class):
    board = room.board
    board.say(None, "one", None)
    board.say(None, "two", None)
    assert [message.text for message in room.read().messages] == ["two"]
    board.say(("ada",), "to you", None)
    assert [message.text for message in room.read().messages] == ["two", "to you"]
    board.say(("ada",), "", None)
    assert [message.text for message in room.read().messages] == ["two"]
    board.say(("ada",), "to you", None)
    board.say(None, "", None)
    assert room.read() == Notices() and board.message is None


def test_a_message_is_over_at_its_time(room: Class):
    room.board.say(None, "until then", int(room.clock.now) + 60)
    assert [message.text for message in room.board.told("ada")] == ["until then"]
    room.clock.now += 60
    assert room.board.told("ada") == []
    room.board.refresh()
    assert room.read() == Notices()


def test_a_newcomer_sees_what_the_class_was_told_and_not_what_others_were(room: Class):
    room.board.say(None, "to all", None)
    room.board.say(("ada",), "to ada", None)
    room.uids = {"eve": ME}
    room.board.refresh()
    assert [message.text for message in room.read().messages] == ["to all"]


def test_a_student_who_left_leaves_no_file(room: Class):
    room.board.say(None, "to all", None)
    room.uids = {}
    room.board.refresh()
    assert not notices.file_of(room.run, ME).exists()


def test_nothing_is_written_again_when_nothing_changed(room: Class):
    room.board.say(None, "to all", None)
    before = notices.file_of(room.run, ME).stat().st_ino
    room.board.refresh()
    room.board.keep_deadlines((), lambda _name: ())
    assert notices.file_of(room.run, ME).stat().st_ino == before


def test_a_link_admits_once_and_the_student_sees_the_visit_until_it_ends(room: Class):
    board = room.board
    board.invite("ada", DIGEST, 300, 3600)
    assert board.admit(hashlib.sha256(b"guess").hexdigest(), "192.0.2.1") is None
    found = board.admit(DIGEST, "192.0.2.1")
    assert found is not None and found[0] == "ada"
    assert room.read().visits == (found[1],) and found[1].until == int(room.clock.now) + 3600
    assert board.admit(DIGEST, "192.0.2.1") is None
    room.clock.now += 3600
    board.refresh()
    assert room.read().visits == ()


def test_a_link_is_too_old_after_its_time(room: Class):
    room.board.invite("ada", DIGEST, 300, 3600)
    room.clock.now += 300
    assert room.board.admit(DIGEST, "192.0.2.1") is None


def test_visits_and_unused_links_are_ended_for_the_students_meant(room: Class):
    board = room.board
    board.invite("ada", DIGEST, 300, 3600)
    board.admit(DIGEST, "192.0.2.1")
    board.invite("ada", DIGEST, 300, 3600)
    assert board.end_visits(("eve",)) == 0
    assert board.end_visits(("ada",)) == 2
    assert room.read().visits == () and board.admit(DIGEST, "192.0.2.1") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="the file must be root's")
def test_the_next_supervisor_goes_on_but_takes_over_no_link(room: Class):
    board = room.board
    board.say(None, "to all", None)
    board.say(("ada",), "to ada", None)
    board.warn_of_disk("ada", (9, 10))
    board.show_changed("ada", ["tutorial/a.ipynb"])
    board.invite("ada", DIGEST, 300, 3600)
    board.admit(DIGEST, "192.0.2.1")
    board.invite("ada", hashlib.sha256(b"other").hexdigest(), 300, 3600)
    before = room.read()
    assert DIGEST not in (room.run / RECORD).read_text()
    again = Class(room.run, "ada")
    again.board.recover()
    again.board.refresh()
    assert again.read() == before
    assert again.board.admit(hashlib.sha256(b"other").hexdigest(), "192.0.2.1") is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"message": 7, "told": {}}', '{"message": null, "told": {"a": 1}}']
)
def test_a_damaged_record_is_not_used(room: Class, content: str):
    (room.run / RECORD).write_text(content)
    (room.run / RECORD).chmod(0o600)
    room.board.recover()
    room.board.refresh()
    assert room.read() == Notices()


def test_a_delivery_of_very_many_files_leaves_the_messages_readable(room: Class):
    room.board.say(None, "to all", None)
    room.board.show_changed("ada", [f"{'👩' * 990}/{number}" for number in range(5000)] + ["y" * 5000])
    assert notices.file_of(room.run, ME).stat().st_size < notices.LARGEST
    assert len(room.read().changed) == notices.MOST_CHANGED and room.read().messages[0].text == "to all"


def test_a_students_later_moment_counts_in_place_of_the_class_s(room: Class):
    own = {"ada": [("ps1", 2000)]}
    room.board.keep_deadlines((("ps1", 1500), ("ps2", 1600), ("ps1", 3000)), lambda name: own.get(name, ()))
    assert room.read().deadlines == (("ps2", 1600), ("ps1", 2000), ("ps1", 3000))


def test_the_end_of_the_class_leaves_nothing(room: Class):
    room.board.say(None, "to all", None)
    room.board.close()
    assert list(room.run.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"messages": 7}', b"\xff", json.dumps({"a": 1}).encode()])
def test_a_file_that_its_student_spoiled_says_nothing(content: bytes):
    assert Notices.parse(content) == Notices()


def test_the_end_of_a_job_is_told_and_taken_back(room: Class):
    room.board.warn_of_ends({"ada": 1300})
    assert room.read().ends_at == 1300
    written = room.board.written(ME)
    assert Notices.parse(written).ends_at == 1300
    room.board.warn_of_ends({"ada": 1300})
    assert room.board.written(ME) is written, "nothing is written for nothing"
    room.board.warn_of_ends({})
    assert room.read().ends_at == 0
