"""What comes from outside cannot act on the terminal that shows it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("José (吳健雄)", "José (吳健雄)"),
        ("a b", "a b"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\u2028", "a\\u200bb\\u2028"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("C:\\x", "C:\\x"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_the_result_is_printable_encodable_and_twice_is_the_same_as_once(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    shown.encode("utf-8")
