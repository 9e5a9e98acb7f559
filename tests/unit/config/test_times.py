"""Times that a teacher writes."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from nblauncher.config import times

UTC = timezone.utc


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    """The host is in Berlin: summer time ended on 2026-10-25 and begins on 2027-03-28."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2026-11-27 17:00", datetime(2026, 11, 27, 16, tzinfo=UTC)),
        ("2026-07-01T17:00:30", datetime(2026, 7, 1, 15, 0, 30, tzinfo=UTC)),
        ("2026-11-27 17:00 +05:30", datetime(2026, 11, 27, 11, 30, tzinfo=UTC)),
        ("2026-11-27 17:00-0800", datetime(2026, 11, 28, 1, tzinfo=UTC)),
        ("2026-11-27 17:00Z", datetime(2026, 11, 27, 17, tzinfo=UTC)),
        ("2026-11-27 17:00 America/New_York", datetime(2026, 11, 27, 22, tzinfo=UTC)),
        ("2026-10-25 02:30 +01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        ("2026-11-27T17:00:00.250+01:00", datetime(2026, 11, 27, 16, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-27 17.00.30", datetime(2026, 11, 27, 16, 0, 30, tzinfo=UTC)),
        ("2026-11-27 17.00.30.250", datetime(2026, 11, 27, 16, 0, 30, 250_000, tzinfo=UTC)),
        ("2026-11-27T170030+0100", datetime(2026, 11, 27, 16, 0, 30, tzinfo=UTC)),
        ("2026-11-27T170030+0100-2", datetime(2026, 11, 27, 16, 0, 30, tzinfo=UTC)),
        ("2026-11-27T170030+0100-only-ada-2", datetime(2026, 11, 27, 16, 0, 30, tzinfo=UTC)),
        ("2026-10-25T023000+0100", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_the_hosts_unless_a_zone_is_given(text, expected):
    assert times.parsed(text) == expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("2026-10-25 02:30", r"is there twice.*\+02:00 or \+01:00"),
        ("2027-03-28 02:30", "does not exist"),
        ("2026-11-01 01:30 America/New_York", "is there twice.*-04:00 or -05:00"),
        ("2027-03-14 02:30 America/New_York", "does not exist"),
        ("2026-02-30 10:00", "is not a time"),
        ("2026-11-27 25:00", "is not a time"),
        ("tomorrow", "is not a time such as"),
        ("2026-11-27", "is not a time such as"),
        ("2026-11-27 17:00 Mars/Olympus", "is not a zone"),
        ("2026-11-27 17:00 ../../etc/passwd", "is not a time"),
        ("2026-11-27 17:00 +19:00", "is not an offset"),
        ("2026-11-27 17:00 +0100 (17:00:00 UTC)", "gives two times"),
        ("2026-11-27T170030", "is not a time such as"),
        ("2026-11-27 17:00.5", "is not a time such as"),
        ("２０２６-11-27 17:00", "is not a time such as"),
    ],
)
def test_a_time_that_is_ambiguous_or_does_not_exist_is_refused_in_words(text, words):
    with pytest.raises(ValueError, match=words):
        times.parsed(text)


def test_a_time_is_said_with_its_zone_and_in_utc():
    assert times.words(datetime(2026, 11, 27, 16, tzinfo=UTC)) == "2026-11-27 17:00:00 +0100 (16:00:00 UTC)"
    assert times.words(datetime(2026, 11, 27, 23, 30, tzinfo=UTC)) == (
        "2026-11-28 00:30:00 +0100 (2026-11-27 23:30:00 UTC)"
    )


SHOWN = [
    datetime(2026, 11, 27, 16, 0, 0, tzinfo=UTC),
    datetime(2026, 11, 27, 23, 30, 0, 250_400, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 30, 0, 999_999, tzinfo=UTC),
    datetime(2026, 10, 25, 1, 30, 0, 400, tzinfo=UTC),
]


@pytest.mark.parametrize("shown", [times.short, times.words, times.iso, datetime.isoformat])
@pytest.mark.parametrize("at", SHOWN)
def test_a_time_that_is_shown_can_be_typed_back_and_means_the_instant_that_it_was_cut_from(shown, at):
    text = shown(at)
    assert times.parsed(text) <= at <= times.last_meant(text)
    assert times.last_meant(text) - times.parsed(text) < timedelta(milliseconds=1)


def test_a_time_that_was_cut_means_what_was_cut_and_one_that_was_not_its_instant():
    assert times.last_meant("2026-11-27 17:00:00.25Z") == datetime(2026, 11, 27, 17, 0, 0, 259_999, tzinfo=UTC)
    assert times.last_meant("2026-11-27 17:00:00Z") == datetime(2026, 11, 27, 17, tzinfo=UTC)
    assert times.last_meant("2026-11-27T170000+0000-ps1") == datetime(2026, 11, 27, 17, 0, 0, 999_999, tzinfo=UTC)
    assert times.last_meant("2026-11-27 17:00Z") == datetime(2026, 11, 27, 17, tzinfo=UTC)


@pytest.mark.parametrize("text, minutes", [("15m", 15), ("15", 15), ("2h", 120), ("1 d", 1440), ("90 minutes", 90)])
def test_a_length_of_time(text, minutes):
    assert times.length(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5 years", "1.5h"])
def test_no_length_of_time(text):
    with pytest.raises(ValueError, match="is not a length"):
        times.length(text)
