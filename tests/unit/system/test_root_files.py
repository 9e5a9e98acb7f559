"""A file that root replaces whole: its mode, what a killed process left, and what a failure leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nblauncher.system import root_files


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "note"
    root_files.replace(file, "old")
    root_files.replace(file, b"new", durable=True)
    assert file.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["note"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_depends_neither_on_the_umask_nor_on_what_a_killed_process_left(tmp_path: Path, mode: int) -> None:
    (tmp_path / ".note.new").write_text("left over, and longer than the new content")
    (tmp_path / ".note.new").chmod(0o666)
    before = os.umask(0o077)
    try:
        root_files.replace(tmp_path / "note", "new", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "note").stat().st_mode & 0o777 == mode
    assert (tmp_path / "note").read_text() == "new"


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".note.new").symlink_to("precious")
    with pytest.raises(OSError):
        root_files.replace(tmp_path / "note", "new")
    assert (tmp_path / "precious").read_text() == "kept"


def test_when_it_fails_the_old_file_stays_and_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "note").mkdir()
    with pytest.raises(OSError):
        root_files.replace(tmp_path / "note", "new")
    assert os.listdir(tmp_path) == ["note"]
    with pytest.raises(UnicodeEncodeError):
        root_files.replace(tmp_path / "other", "ü")
    assert os.listdir(tmp_path) == ["note"]
