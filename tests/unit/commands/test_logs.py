"""Following a log that the supervisor rotates, and what of it reaches the teacher's terminal."""

from __future__ import annotations

import os

import pytest

from nblauncher.commands.running.logs import Follower, last_lines


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "ada.log"
    made.write_text("one\ntwo\nthree\n")
    return made


def test_the_last_lines_come_from_the_older_file_too(file):
    assert last_lines(file, 2) == ["two", "three"]
    assert last_lines(file, 0) == []
    os.replace(file, f"{file}.1")
    file.write_text("four\n")
    assert last_lines(file, 1) == ["four"]
    assert last_lines(file, 3) == ["two", "three", "four"]
    assert last_lines(file, 99) == ["one", "two", "three", "four"]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert last_lines(tmp_path / "nobody.log", 5) == []


def test_escape_sequences_are_shown_and_not_sent(file):
    file.write_bytes(b"\x1b[2J\x1b]52;c;aGk=\x07 hi\r\n\xff\xfe\n\xe2\x80\xae evil\n")
    for line in last_lines(file, 9):
        assert line.isprintable()
    follower = Follower(file)
    with file.open("ab") as stream:
        stream.write(b"\x1b[31mred\n")
    assert follower.new_lines() == ["\\x1b[31mred"]
    follower.close()


def test_only_what_is_added_is_followed_and_only_whole_lines(file):
    follower = Follower(file)
    assert follower.new_lines() == []
    with file.open("a") as stream:
        stream.write("four\nfi")
    assert follower.new_lines() == ["four"]
    with file.open("a") as stream:
        stream.write("ve\n")
    assert follower.new_lines() == ["five"]
    follower.close()


def test_a_rotation_loses_and_repeats_no_line(file):
    follower = Follower(file)
    with file.open("a") as stream:
        stream.write("four\n")
    os.replace(file, f"{file}.1")
    file.write_text("five\n")
    assert follower.new_lines() == ["four", "five"]
    assert follower.new_lines() == []
    follower.close()


def test_a_log_that_appears_later_is_followed_from_its_beginning(tmp_path):
    file = tmp_path / "bob.log"
    follower = Follower(file)
    assert follower.new_lines() == []
    file.write_text("hello\n")
    assert follower.new_lines() == ["hello"]
    file.unlink()
    assert follower.new_lines() == []
    follower.close()
