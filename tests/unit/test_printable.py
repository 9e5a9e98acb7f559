"""What comes from outside cannot act on the terminal that shows it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.printable import printable, printable_lines, spreadsheet_cell


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


TEXTS = st.text(st.characters(codec=None) | st.sampled_from("=+-@;,|\t\n\r\"' \x1b\x07\x9b\u202e"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("x;=HYPERLINK(1)", "x;'=HYPERLINK(1)"),
        ("a\t=1+1", "a\t'=1+1"),
        ("a\r\n @sum", "a\n' @sum"),
        ('x;"=1+1"', 'x;\'"=1+1"'),
        ("＝1+1", "'＝1+1"),
        ("\x1b]0;x\x07\x9b2J\u202e", "\\x1b]0;x\\x07\\x9b2J\\u202e"),
        ("Anna-Maria Müller", "Anna-Maria Müller"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_a_cell_is_what_it_says_for_every_spreadsheet(text: str, cell: str) -> None:
    assert spreadsheet_cell(text) == cell


@given(TEXTS)
def test_no_part_of_a_cell_is_calculated_and_no_terminal_obeys_it(text: str) -> None:
    cell = spreadsheet_cell(text)
    for separator in (",", ";", "\t", "|", "\n"):
        for part in cell.split(separator):
            assert not part.strip(' "\t').startswith(("=", "+", "-", "@"))
    assert not any((ord(one) < 32 and one not in "\n\t") or 0x7F <= ord(one) < 0xA0 for one in cell)
    assert not set(cell) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f\u061c\ufeff")
    assert spreadsheet_cell(cell) == cell


@given(TEXTS)
def test_lines_stay_lines_and_each_is_printable(text: str) -> None:
    shown = printable_lines(text)
    assert shown.count("\n") == text.count("\n")
    assert all(line.isprintable() for line in shown.split("\n"))
