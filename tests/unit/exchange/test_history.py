"""Root's side of a snapshot believes nothing that a student's child says: the lies of test_store, and budgets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nblauncher.config.settings import RetrieveSettings
from nblauncher.errors import HostError
from nblauncher.exchange.history import root_side
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.retrieve import intake
from nblauncher.exchange.retrieve.scope import ALL, Scope
from nblauncher.exchange.rows import stored_row
from nblauncher.model import Exclusion, Stored
from nblauncher.system.storage_share import Share
from nblauncher.system.workers import Frame
from tests.unit.exchange.test_store import FINISH, LIES, begun


def fed(folder: Path, *frames, known=None, share=None) -> root_side.Kept:
    limits = RetrieveSettings(folder, max_file=1000, max_student=2000, max_files=10)
    taking = root_side._Keeping(Scope(ALL, "tutorial"), limits, ObjectStore(folder / "objects"), known or {}, share)
    try:
        for frame in frames:
            header, payload = frame if isinstance(frame, tuple) else (frame, b"")
            is_more = intake.take(Frame(json.loads(json.dumps(header)), payload), taking)
    finally:
        taking.close()
    assert not is_more
    taking.finish()
    return taking.kept


def stored(folder: Path) -> list[bytes]:
    return sorted(file.read_bytes() for file in (folder / "objects").rglob("*") if file.is_file())


@pytest.mark.parametrize("frames", LIES.values(), ids=LIES)
def test_a_stream_that_lies_is_refused_and_leaves_no_half_content(tmp_path, frames):
    with pytest.raises(HostError):
        fed(tmp_path, *frames, FINISH)
    assert set(os.listdir(tmp_path)) <= {"objects"}
    assert not list((tmp_path / "objects").glob(".new-*"))


def test_a_stream_becomes_contents_and_what_is_void_is_none(tmp_path):
    kept = fed(
        tmp_path,
        (begun("work/a", 3, "file"), b"abc"),
        *(begun("work/b/c", 4), ({"kind": "data"}, b"ab"), ({"kind": "data"}, b"cd"), {"kind": "end"}),
        *(begun("work/d", 9), ({"kind": "data"}, b"torn"), {"kind": "void"}),
        (begun("work/e", 3, "file"), b"abc"),
        {"kind": "excluded", "path": "work/x", "reason": "a link", "incomplete": False},
        FINISH,
    )
    assert sorted(kept.files) == ["a", "b/c", "e"]
    assert stored(tmp_path) == [b"abc", b"abcd"]
    assert kept.exclusions == [Exclusion("x", "a link", False)]


def test_what_we_have_is_believed_only_if_it_is_what_we_have(tmp_path):
    known = {"a": Stored((3, 1, 1, 1), "a" * 64)}
    kept = fed(tmp_path, {"kind": "same", "files": [stored_row("work/a", [3, 1, 1, 1], "a" * 64)]}, FINISH, known=known)
    assert kept.files == known
    for row in (stored_row("work/a", [3, 1, 1, 1], "b" * 64), stored_row("work/a", [4, 1, 1, 1], "a" * 64)):
        with pytest.raises(HostError, match="do not have"):
            fed(tmp_path, {"kind": "same", "files": [row]}, FINISH, known=known)


def whole(name: str, data: bytes):
    return (begun(f"work/{name}", len(data)), ({"kind": "data"}, data), {"kind": "end"})


def test_what_there_is_no_room_for_is_counted_and_said(tmp_path):
    """The smallest contents are kept, in whatever order they come."""
    limits = {"known": {"seen": Stored((3, 1, 1, 1), "a" * 64), "hidden": Stored((3, 1, 1, 1), "b" * 64)}}
    kept = fed(
        tmp_path,
        *whole("big", b"x" * 900),
        {"kind": "same", "files": [stored_row("work/seen", [3, 1, 1, 1], "a" * 64)]},
        (begun("work/small", 2, "file"), b"ab"),
        {"kind": "excluded", "path": "work/hidden", "reason": "unreadable", "incomplete": True},
        FINISH,
        share=Share(3 * 4096 + 1000),
        **limits,
    )
    assert sorted(kept.files) == ["big", "seen", "small"]
    assert kept.given_up == {"hidden"} and kept.covers()("hidden")


def test_a_content_gives_way_to_a_smaller_one_and_leaves_nothing(tmp_path):
    limits = RetrieveSettings(tmp_path, max_file=20_000, max_student=90_000, max_files=10)
    store = ObjectStore(tmp_path / "objects")
    taking = root_side._Keeping(Scope(ALL, "tutorial"), limits, store, {}, Share(15_000))
    for frame in (*whole("a", b"x" * 10_000), *whole("b", b"y" * 5000), *whole("c", b"z" * 16_000), FINISH):
        header, payload = frame if isinstance(frame, tuple) else (frame, b"")
        intake.take(Frame(header, payload), taking)
    taking.finish()
    assert (sorted(taking.kept.files), taking.kept.refused_bytes) == (["b"], 26_000)
    assert stored(tmp_path) == [b"y" * 5000]
    assert {one.path for one in taking.kept.exclusions if one.incomplete} == {"a", "c"}


def test_a_path_that_was_given_up_is_remembered_no_more():
    kept = root_side.Kept(exclusions=[Exclusion("a", "no room", True)], given_up={"a"})
    assert kept.covers()("a")


@pytest.mark.parametrize(
    "left_out, path, is_gone",
    [("", "a/b", False), ("a", "a/b", False), ("a/b", "a/b", False), ("a/b", "a/bc", True), ("a/b/c", "a/b", True)],
)
def test_what_was_left_out_covers_what_is_below_it(left_out, path, is_gone):
    kept = root_side.Kept(exclusions=[Exclusion(left_out, "a reason")])
    assert kept.covers()(path) is is_gone
