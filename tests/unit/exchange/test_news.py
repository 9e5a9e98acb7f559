"""The note for students, and the end that work on their bytes has."""

from __future__ import annotations

import pytest

from nblauncher.exchange.send import news
from nblauncher.system.bounds import TooLongError, bounded


def test_the_newest_comes_first_and_earlier_news_stay():
    first = news.text("Monday", ["a", "b"], "")
    assert first == "# News from your teacher\n\n## Monday\n\n- a\n- b\n"
    second = news.text("Tuesday", ["c"], first)
    assert second == "# News from your teacher\n\n## Tuesday\n\n- c\n\n## Monday\n\n- a\n- b\n"


def test_very_old_news_go_a_section_at_a_time():
    text = ""
    for number in range(300):
        text = news.text(f"Day {number}", ["x" * 500], text)
    assert len(text) < 70_000
    assert text.startswith("# News from your teacher\n\n## Day 299\n")
    assert text.count("x" * 500) == text.count("## Day")


def test_what_is_no_news_of_ours_is_not_taken_for_some():
    assert news.text("Monday", ["a"], "my own notes") == news.text("Monday", ["a"], "")


@pytest.mark.parametrize(
    "path, code", [("lab.py", "`lab.py`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("<b>", "`<b>`")]
)
def test_a_path_is_code_whatever_is_in_it(path, code):
    assert news.code(path) == code


def test_work_without_an_end_is_ended():
    with pytest.raises(TooLongError), bounded(seconds=0.1, memory=1 << 30):
        while True:
            pass


def test_work_that_takes_too_much_memory_is_ended_and_the_limit_is_lifted():
    with pytest.raises(MemoryError), bounded(seconds=10, memory=50 << 20):
        bytearray(500 << 20)
    assert len(bytearray(500 << 20)) == 500 << 20
