"""Extra time is a right: it is read as people write it, or it is an error. Never nothing."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from nblauncher.config import extra_time, roster
from nblauncher.config.extra_time import Extra
from nblauncher.errors import InputError
from nblauncher.model import Deadline, Student

AT = datetime(2026, 11, 27, 16, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "text, minutes",
    [
        *(
            (text, 15)
            for text in ("15", "15m", "15 min", "15 Min.", "15 minutes", "+15", " 15 ", "15\u00a0min", "15 Minuten")
        ),
        *((text, 60) for text in ("1h", "1 hour", "1 hr", "1:00", "60", "1 Std.")),
        *(
            (text, 90)
            for text in ("1h30m", "1h 30", "1h30", "1:30", "01:30", "1 hour 30 minutes", "1 h, 30 min", "1:30:00")
        ),
        *((text, 0) for text in ("", "  ", "0", "-", "\N{EN DASH}")),
        ("2 days", 2880),
        ("1d 2h", 1560),
    ],
)
def test_a_length_is_read_as_people_write_it(text, minutes):
    assert extra_time.read(text) == Extra(timedelta(minutes=minutes))


@pytest.mark.parametrize(
    "text, percent",
    [
        *((text, 25.0) for text in ("25%", "25 %", "+25%", "25\u202f%", "25\uff05", "25 percent", "25,0 %")),
        *((text, 12.5) for text in ("12,5 %", "12.5%")),
        ("400%", 400.0),
    ],
)
def test_a_percentage_is_read_as_people_write_it(text, percent):
    assert extra_time.read(text) == Extra(percent=percent)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "lots",
            "yes",
            "-5",
            "-25%",
            "0.25",
            "1.5",
            "1,5",
            "1.5h",
            "1h90m",
            "30m 1h",
            "1:75",
            "15 m 20",
            "h",
            "%",
            "x2",
        ),
        *("401%", "61d", "100000", "15 years", "25%%", "1h and", "15;20", "=15", "\u0661\u0665", "1e3", "15 min extra"),
    ],
)
def test_everything_else_is_refused_in_words(text):
    with pytest.raises(ValueError, match=r"is not a length|of what\?|typing error"):
        extra_time.read(text)
    assert extra_time.objection(text).startswith("extra_time: ")


def test_every_bad_cell_of_a_roster_is_named_with_its_line_at_once():
    data = b"username,extra_time\nada,lots\nbob,15 Min.\neve,0.25\n"
    with pytest.raises(InputError) as refused:
        roster.parse(data, "students.csv")
    first, second = refused.value.problems
    assert first.startswith('students.csv line 2: ada: extra_time: "lots"')
    assert second.startswith('students.csv line 4: eve: extra_time: "0.25" of what? write a percentage such as 25%')
    assert len(roster.parse(data, "students.csv", judges_extra_time=False)) == 3


def test_a_percentage_of_nothing_names_deadline_student_and_both_ways_out():
    students = [
        Student("ada", extra_time="25 %", line=2),
        Student("bob", extra_time="10"),
        Student("eve", extra_time="5%"),
    ]
    deadlines = [Deadline("ps1", "ps1", AT), Deadline("exam", "exam", AT, AT - timedelta(hours=1))]
    (words,) = extra_time.without_starts(deadlines, students)
    assert words.startswith("deadline ps1 has no `starts`") and "ada (line 2: 25 %), eve (5%)" in words
    assert "`ps1: {at: ..., starts: ...}`" in words and "minutes in the roster" in words
    assert "bob" not in words
