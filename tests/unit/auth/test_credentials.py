"""The teacher's credentials file."""

import csv
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from nblauncher.auth import credentials
from nblauncher.auth.credentials import AS_BEFORE, COLUMNS, Credentials
from nblauncher.errors import HostError
from nblauncher.model import Account, Secret

ME = Account("me", os.getuid(), os.getgid(), Path("/"))


def row(username, name="", password="abcd"):
    return Credentials(username, name, "", f"https://host:8000/{username}", Secret(password), Secret("efgh"))


def cells(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "credentials.csv"


needs_root_as_owner = pytest.mark.skipif(os.getuid() != 0, reason="a worker drops from root")


@needs_root_as_owner
def test_the_file_is_private_and_has_the_six_columns(file):
    credentials.write(ME, file, [row("ada", "Ada")])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tuple(cells(file)[0]) == COLUMNS
    assert cells(file)[0]["notebook_password"] == "abcd"


@needs_root_as_owner
def test_new_rows_are_added_old_ones_stay_and_the_same_name_is_replaced(file):
    credentials.write(ME, file, [row("ada"), row("bob")])
    credentials.write(ME, file, [row("bob", password="new"), row("eve")], gone=["ada"])
    assert [(one["username"], one["notebook_password"]) for one in cells(file)] == [("bob", "new"), ("eve", "abcd")]


@needs_root_as_owner
@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "  =cmd()"])
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(file, cell):
    credentials.write(ME, file, [row("ada", cell)])
    assert cells(file)[0]["name"] == f"'{cell}"


@needs_root_as_owner
def test_a_cell_that_would_be_split_is_quoted_and_every_part_is_harmless(file):
    file.write_bytes((",".join(COLUMNS) + '\r\nold,"x;=1",,,\x1b[2J,\r\n').encode())
    credentials.write(ME, file, [row("ada", "x;=HYPERLINK(1)"), row("bob", "a\t=1+1"), row("eve", "\x1b]0;\x07")])
    assert [one["name"] for one in cells(file)] == ["x;'=1", "x;'=HYPERLINK(1)", "a\t'=1+1", "\\x1b]0;\\x07"]
    text = file.read_bytes()
    assert b'"x;\'=HYPERLINK(1)"' in text and b'"a\t\'=1+1"' in text
    assert b"\x1b" not in text and b"\x07" not in text


@needs_root_as_owner
def test_quotes_newlines_and_other_scripts_in_names_survive(file):
    name = 'O\'Brien, "Zoë"\nДва'
    credentials.write(ME, file, [row("ada", name)])
    credentials.write(ME, file, [row("bob")])
    assert cells(file)[0]["name"] == name


@needs_root_as_owner
def test_a_file_that_is_not_ours_is_never_overwritten(file):
    file.write_text("my,own,sheet\n1,2,3\n")
    with pytest.raises(HostError, match="not one of ours"):
        credentials.write(ME, file, [row("ada")])
    assert file.read_text() == "my,own,sheet\n1,2,3\n"


@needs_root_as_owner
def test_a_link_in_its_place_is_not_followed(file, tmp_path):
    (tmp_path / "elsewhere").write_text("")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError):
        credentials.write(ME, file, [row("ada")])
    assert (tmp_path / "elsewhere").read_text() == ""


def test_passwords_do_not_show_in_the_row():
    assert "abcd" not in repr(row("ada"))


@needs_root_as_owner
def test_while_a_password_is_changed_the_file_has_the_old_one_too(file):
    credentials.write(ME, file, [row("ada", "Ada"), row("bob")])
    credentials.begin_change(ME, file, [row("ada", password="new1")])
    credentials.begin_change(ME, file, [replace(row("ada", password="new2"), system_password=AS_BEFORE)])
    ada, bob = cells(file)
    assert ada["notebook_password"] == "new2 (being changed; until then: new1 or abcd)"
    assert (ada["name"], ada["system_password"]) == ("Ada", "efgh (being changed; until then: efgh)")
    assert bob["notebook_password"] == "abcd"
    credentials.end_change(ME, file, ["ada"])
    assert credentials.passwords_in(ME, file)["ada"] == {"notebook_password": "new2", "system_password": "efgh"}


@needs_root_as_owner
def test_the_change_of_a_row_that_the_teacher_deleted_makes_it_again(file):
    credentials.begin_change(ME, file, [row("ada", "Ada", password="new")])
    assert [(one["name"], one["notebook_password"]) for one in cells(file)] == [("Ada", "new")]


@needs_root_as_owner
def test_a_row_follows_the_roster_and_keeps_its_passwords(file):
    credentials.write(ME, file, [row("ada", "Ada"), row("bob", "=Bob")])
    assert credentials.outdated(ME, file, [row("ada", "Ada"), row("bob", "=Bob"), row("eve")]) == frozenset()
    now = [row("ada", "Ada L.", password="new"), row("bob", "=Bob"), row("eve")]
    assert credentials.outdated(ME, file, now) == {"ada"}
    credentials.correct(ME, file, now)
    assert [(one["username"], one["name"], one["notebook_password"]) for one in cells(file)] == [
        ("ada", "Ada L.", "abcd"),
        ("bob", "'=Bob", "abcd"),
    ]
