"""Which students `--section` means."""

from __future__ import annotations

import pytest

from nblauncher.config import roster, sections
from nblauncher.errors import InputError
from nblauncher.model import Roster

CLASS = roster.parse(
    'username,section\nada,Monday\nbob,"Monday, Group A"\neve,Tuesday; group a\nzoe,\n'
    'kim,"Room 1, left"\nlee,Übung  2\n'.encode(),
    "students.csv",
)


@pytest.mark.parametrize(
    "given, expected",
    [
        (["Monday"], {"ada", "bob"}),
        ([" monday "], {"ada", "bob"}),
        (["Group A"], {"bob", "eve"}),
        (["Monday, Group A"], {"bob"}),
        (["Monday,Group A"], {"ada", "bob", "eve"}),
        (["Monday,"], {"ada", "bob"}),
        (["Room 1, left"], {"kim"}),
        (["left", "Tuesday"], {"kim", "eve"}),
        (["U\u0308bung 2"], {"lee"}),
    ],
)
def test_a_section_is_a_cell_or_a_part_of_it(given: list[str], expected: set[str]) -> None:
    assert sections.members(CLASS, given) == expected


@pytest.mark.parametrize(
    "students, given, words",
    [
        (CLASS, "Mondy", 'no student of the roster is in "Mondy"; did you mean "Monday"?'),
        (CLASS, "x\x1b", 'is in "x\\x1b"; there are "Group A", "Monday"'),
        (roster.parse(b"username\nada\n", "x"), "Monday", "its column section is empty or missing"),
    ],
)
def test_an_unknown_section_is_refused_with_what_there_is(students: Roster, given: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        sections.members(students, [given])
    assert words in caught.value.problem


def test_all_unknown_sections_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        sections.members(CLASS, ["Monday,x", "y,Tuesday"])
    assert len(caught.value.problems) == 2
