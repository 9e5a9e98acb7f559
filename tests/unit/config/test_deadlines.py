"""When each student's work is captured."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from nblauncher.commands.deadlines import capture
from nblauncher.config import deadlines
from nblauncher.errors import InputError
from nblauncher.exchange.retrieve import receipts
from nblauncher.isolation.freezer import Freeze
from nblauncher.model import Deadline, Student

AT = datetime(2026, 11, 27, 16, tzinfo=timezone.utc)
PS1 = Deadline("ps1", "ps1", AT)
EXAM = Deadline("exam", "exam", AT, AT - timedelta(minutes=90))


@pytest.mark.parametrize(
    "text, minutes", [("", 0), ("15", 15), ("15m", 15), ("1h", 60), ("25%", 22.5), ("33.5 %", 30.15)]
)
def test_extra_time_is_minutes_a_length_or_a_percentage(text, minutes):
    assert deadlines.granted(text, EXAM) == timedelta(minutes=minutes)


def test_a_percentage_needs_to_know_when_it_starts():
    with pytest.raises(ValueError, match=r"\"25%\" of what\? deadline ps1 has no `starts`"):
        deadlines.granted("25%", PS1)


def test_everybody_has_a_moment_and_some_a_later_one():
    students = [Student("ada"), Student("bob", extra_time="20"), Student("eve", extra_time="soon")]
    found, problems = deadlines.moments_of([PS1], students, {("ps1", "ada"): timedelta(minutes=5)})
    assert [(one.username, one.at - AT) for one in found] == [
        ("eve", timedelta(0)),
        ("ada", timedelta(minutes=5)),
        ("bob", timedelta(minutes=20)),
    ]
    assert problems == ['eve: extra_time: "soon" is not a length of time such as 15m, 2h or 1d']


def test_an_extension_counts_for_its_own_deadline_and_on_top_of_extra_time():
    students = [Student("bob", extra_time="25%")]
    found, _ = deadlines.moments_of([PS1, EXAM], students, {("exam", "bob"): timedelta(minutes=10)})
    assert {one.deadline.name: one.at - AT for one in found} == {
        "ps1": timedelta(0),
        "exam": timedelta(minutes=32.5),
    }


ABOUT = {"username": "ada", "files": [{"path": "é", "size": 1, "sha256": "a"}], "late": False}


def test_a_receipt_proves_what_it_says(tmp_path):
    key = receipts.key(tmp_path / "key")
    assert receipts.key(tmp_path / "key") == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert receipts.verified(receipts.signed(ABOUT, key), key) == ABOUT


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"ada", b"bob"),
        lambda data: data.replace(b"false", b"true"),
        lambda data: data.replace(b'"size": 1', b'"size": 2'),
        lambda data: data[:-20],
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: b"[" * 100_000,
        lambda data: b"\xff",
    ],
)
def test_a_receipt_that_was_changed_proves_nothing(change, tmp_path):
    key = receipts.key(tmp_path / "key")
    with pytest.raises(InputError, match=r"not a receipt|not genuine"):
        receipts.verified(change(receipts.signed(ABOUT, key)), key)


def test_another_courses_receipt_is_not_genuine(tmp_path):
    data = receipts.signed(ABOUT, receipts.key(tmp_path / "one"))
    with pytest.raises(InputError, match="not genuine"):
        receipts.verified(data, receipts.key(tmp_path / "two"))


def test_a_copy_that_was_not_done_before_the_ice_melted_is_none():
    moment = deadlines.Moment(PS1, "ada", AT)
    melted = capture._capture_each(None, [moment], {}, AT, Freeze(until=0.0))  # type: ignore[arg-type]
    assert melted == {"ada": "the class ran again before the copy was done"}
