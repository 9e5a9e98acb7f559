"""What `roster import` does between looking and writing."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from nblauncher.commands.session import Caller
from nblauncher.commands.teaching import roster_import
from nblauncher.commands.teaching.roster_import import Import, Target
from nblauncher.errors import InputError, RefusedError
from nblauncher.model import Account

ENTRY = pwd.getpwuid(os.geteuid())
ME = Account(ENTRY.pw_name, ENTRY.pw_uid, ENTRY.pw_gid, Path(ENTRY.pw_dir))


def prepared(folder: Path, rows: str = "Ada,ada@uni.example\n", members: frozenset[str] = frozenset()) -> Import:
    (folder / "list.csv").write_text(f"Name,E-mail\n{rows}")
    target = Target(folder / "students.csv", ME, frozenset({0, ME.uid}), members)
    return roster_import.prepare(Caller(False, ME), folder / "list.csv", target, drops_absent=False)


@pytest.mark.parametrize("before", [None, "username\neve\n"])
def test_a_roster_that_changed_since_it_was_shown_is_not_replaced(tmp_path: Path, before: str | None) -> None:
    roster = tmp_path / "students.csv"
    if before:
        roster.write_text(before)
    made = prepared(tmp_path)
    roster.write_text("username\nthe teacher was faster\n")
    with pytest.raises(RefusedError, match="changed since it was shown"):
        roster_import.write(made)
    assert roster.read_text() == "username\nthe teacher was faster\n"


def test_separator_and_byte_order_mark_of_the_roster_stay(tmp_path: Path) -> None:
    (tmp_path / "students.csv").write_bytes(b"\xef\xbb\xbfusername;seat;note\r\neve;A1;=1+1\r\n")
    roster_import.write(prepared(tmp_path))
    assert (tmp_path / "students.csv").read_bytes() == (
        b"\xef\xbb\xbfusername;name;email;section;seat;note\neve;;;;A1;=1+1\nada;Ada;ada@uni.example;;;\n"
    )


def test_a_roster_with_a_bad_line_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "students.csv").write_text("username\nA B\n")
    with pytest.raises(InputError, match="line 2"):
        prepared(tmp_path)
    assert (tmp_path / "students.csv").read_text() == "username\nA B\n"


def test_what_setup_would_refuse_is_not_written(tmp_path: Path) -> None:
    """A person called Username would make a second header line."""
    with pytest.raises(InputError, match="header"):
        prepared(tmp_path, "username,username@uni.example\n")
    assert not (tmp_path / "students.csv").exists()


def test_a_member_of_the_course_who_left_the_roster_keeps_the_username(tmp_path: Path) -> None:
    made = prepared(tmp_path, members=frozenset({"ada"}))
    assert made.merged.roster.usernames == ("ada2",)
