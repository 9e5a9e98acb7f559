"""What may be said to a class, and until when."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from nblauncher.commands.teaching import message
from nblauncher.errors import InputError
from nblauncher.server.notices import LONGEST

NOW = datetime(2026, 11, 27, 10, 30).astimezone()


@pytest.mark.parametrize(
    "text",
    ["Five minutes left", "<script>alert(1)</script> & <b>", "خمس دقائق", "👩‍🏫 fünf Minuten", "می‌روم", "x" * LONGEST],
)
def test_a_line_of_text_in_any_script_is_said_as_it_is(text):
    assert message.checked_text(f"  {text} ") == text


@pytest.mark.parametrize(
    "text", ["", "   ", "a\nb", "a\x1b[31m", "a\u202eb", "a\u2028b", "\udcff", "a\tb", "a\x00", "x" * (LONGEST + 1)]
)
def test_control_characters_direction_marks_and_long_texts_are_refused(text):
    with pytest.raises(InputError, match="nothing was said"):
        message.checked_text(text)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("10:45", 15),
        ("10.45", 15),
        ("9:45", 24 * 60 - 45),
        ("2026-11-27 10:45", 15),
        ("20m", 20),
        ("1h30m", 90),
        ("5", 5),
    ],
)
def test_until_is_a_clock_a_time_or_a_length(text, minutes):
    assert message.checked_until(text, NOW) == NOW + timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "soon", "25:00", "2026-11-27 10:30", "2026-11-26 10:45", "8d", "0m", "\x1b"])
def test_until_is_in_the_coming_week(text):
    with pytest.raises(InputError, match=r"--until: .*nothing was said"):
        message.checked_until(text, NOW)
