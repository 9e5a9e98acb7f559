"""Contents by their sha256: whole or not there, one file for equal ones, nothing believed that is damaged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.exchange.objects import ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(store: ObjectStore, name: str) -> bytes | None:
    parts: list[bytes] = []
    return None if store.read(name, parts.append) is None else b"".join(parts)


def test_what_was_put_can_be_read_and_equal_contents_are_one(store):
    store.put(sha(b"abc"), [b"a", b"bc"])
    store.put(sha(b"abc"), [b"never asked for"])
    store.sync()
    assert (read(store, sha(b"abc")), list(store.names()), store.size()) == (b"abc", [sha(b"abc")], 3)
    assert [file.stat().st_mode & 0o777 for file in (store.folder, store.path(sha(b"abc")))] == [0o700, 0o600]


def test_another_content_than_its_name_says_is_not_kept(store):
    with pytest.raises(HostError, match="another content"):
        store.put(sha(b"abc"), [b"abd"])
    assert not store.has(sha(b"abc"))
    assert not list(store.folder.glob(".new-*"))


def test_a_damaged_content_is_as_good_as_missing_and_forgotten(store):
    store.put(sha(b"abc"), [b"abc"])
    store.path(sha(b"abc")).write_bytes(b"abX")
    assert not store.is_whole(sha(b"abc"))
    assert not store.has(sha(b"abc"))
    assert read(store, sha(b"abc")) is None


def test_pruning_keeps_what_is_wanted_and_clears_what_killed_runs_left(store):
    for data in (b"one", b"two", b"three"):
        store.put(sha(data), [data])
    (store.folder / ".new-0123456789abcdef").write_bytes(b"half")
    assert store.prune({sha(b"two")}) == 8
    assert list(store.names()) == [sha(b"two")]
    assert not list(store.folder.glob(".new-*"))


def test_what_is_not_there_yet_is_empty(store):
    assert (list(store.names()), store.size(), store.prune(()), read(store, sha(b"x"))) == ([], 0, 0, None)
    store.sync()


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_only_a_sha256_is_a_name(store, name):
    with pytest.raises(ValueError, match="not a sha256"):
        store.path(name)
