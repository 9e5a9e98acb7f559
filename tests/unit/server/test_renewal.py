"""A new password for a running server: the file that root leaves, whatever a student puts in its place."""

from __future__ import annotations

import os

import pytest

from nblauncher.server import renewal
from nblauncher.server.renewal import Renewal


def test_the_hash_is_taken_over_and_the_file_is_emptied(tmp_path):
    taken: list[str] = []
    file = tmp_path / "1001"
    file.write_bytes(renewal.content("argon2:new"))
    one = Renewal(file, taken.append)
    one.apply()
    one.apply()  # any process of the student's can send the signal
    assert taken == ["argon2:new"] and file.stat().st_size == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b"{}", b"[" * 100_000, b'{"hashed_password": ""}'])
def test_what_is_not_a_hash_changes_nothing(tmp_path, content):
    taken: list[str] = []
    file = tmp_path / "1001"
    file.write_bytes(content)
    Renewal(file, taken.append).apply()
    assert not taken and file.read_bytes() == content


def test_neither_a_link_nor_a_fifo_is_opened(tmp_path):
    taken: list[str] = []
    (tmp_path / "other").write_bytes(renewal.content("argon2:new"))
    (tmp_path / "link").symlink_to("other")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "missing"):
        Renewal(tmp_path / name, taken.append).apply()
    assert not taken


def test_a_renewal_that_fails_leaves_the_file_so_that_root_restarts_the_server(tmp_path):
    file = tmp_path / "1001"
    file.write_bytes(renewal.content("argon2:new"))

    def fail(_hashed: str) -> None:
        raise ValueError("no")

    Renewal(file, fail).apply()
    assert file.stat().st_size


def test_the_key_of_the_cookies_depends_on_the_password_and_the_server():
    keys = {renewal.cookie_secret(base, hashed) for base in (b"1", b"2") for hashed in ("argon2:a", "argon2:b")}
    assert len(keys) == 4
