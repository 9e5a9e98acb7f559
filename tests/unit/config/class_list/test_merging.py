"""A class list and the roster that is there: who is whom, and what is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.config import roster, roster_diff
from nblauncher.config.class_list import export, merging
from nblauncher.config.class_list.merging import Merged
from nblauncher.errors import InputError
from nblauncher.model import USERNAME, Roster

HEADER = "Name,E-mail,ID number,Group\n"
KNOWN = roster.parse(
    b"username,name,email,student_id,section,seat,extra_time,laptop\n"
    b"ada,Ada Lovelace,ada@uni.example,07,Monday,A1,25 %,+own\n"
    b"bob,Bob Builder,,,,,,=loan\n",
    "students.csv",
)


def merged(rows: str, known: Roster = KNOWN, **more: object) -> Merged:
    people = export.read((HEADER + rows).encode(), "list.csv").people
    return merging.merge(people, known, "list.csv", **more)  # type: ignore[arg-type]


def refusal(rows: str, known: Roster = KNOWN) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        merged(rows, known)
    assert caught.value.hint == "Nothing was changed."
    return caught.value.problems


def changes(rows: str, **more: object) -> tuple[str, ...]:
    return roster_diff.diff(KNOWN, merged(rows, **more).roster).describe()


@pytest.mark.parametrize(
    "rows, expected",
    [
        ("Ada Lovelace,ADA@uni.example,07,Monday\n", ()),
        ("Ada King,ada@uni.example,,\n", ('~ ada: name was "Ada Lovelace", is "Ada King"',)),
        ("Ada Lovelace,ada@new.example,07,\n", ('~ ada: email was "ada@uni.example", is "ada@new.example"',)),
        ("Ada Lovelace,,07,Friday\n", ('~ ada: section was "Monday", is "Friday"',)),
        ("bob builder,bob@uni.example,08,\n", (
            '~ bob: email was "", is "bob@uni.example"',
            '~ bob: student_id was "", is "08"',
        )),
        ("Ada Lovelace,other@uni.example,99,\n", ("+ other (Ada Lovelace)",)),
    ],
    ids=["the same", "by e-mail", "by ID", "by ID alone", "by name", "another of that name"],
)  # fmt: skip
def test_a_known_student_is_found_again(rows: str, expected: tuple[str, ...]) -> None:
    assert changes(rows) == expected


def test_what_the_export_does_not_have_is_kept() -> None:
    ada, bob = merged("Ada Lovelace,ada@uni.example,,\n").roster
    assert (ada.student_id, ada.section, ada.seat, ada.extra_time) == ("07", "Monday", "A1", "25 %")
    assert (ada.extra, bob.extra) == ((("laptop", "+own"),), (("laptop", "=loan"),))


def test_students_who_are_not_in_the_export_stay_until_they_are_dropped() -> None:
    row = "Ada Lovelace,ada@uni.example,,\n"
    assert merged(row).absent == ("bob",) and merged(row).roster.usernames == ("ada", "bob")
    assert merged(row, drops_absent=True).roster.usernames == ("ada",)


def test_a_username_of_the_export_finds_a_student_without_address() -> None:
    people = export.read(b"Username,First name,Last name,Email\nbob,Bob,Builder,b@x.example\n", "list.csv").people
    assert merging.merge(people, KNOWN, "list.csv").roster.usernames == ("ada", "bob")
    people = export.read(b"Username,First name,Last name,Email\nbob,Bo,Other,b@x.example\n", "list.csv").people
    assert merging.merge(people, KNOWN, "list.csv").roster.usernames == ("ada", "bob", "bob2")


def test_two_people_of_one_name_are_two_students_and_both_are_told() -> None:
    found = merged("Anna Schmidt,,1,\nAnna Schmidt,,2,\nAnna Schmidt,anna-schmidt2@x.example,3,\n", Roster())
    assert found.roster.usernames == ("anna-schmidt", "anna-schmidt2", "anna-schmidt22")
    assert found.notes[0] == "two people are called Anna Schmidt: anna-schmidt and anna-schmidt2"
    assert len(found.notes) == 2


def test_a_username_that_is_taken_is_told_with_whose_it_is() -> None:
    found = merged("Ada Byron,ada@other.example,,\n")
    assert found.roster.usernames[-1] == "ada2"
    assert found.notes == ("ada2 (Ada Byron): the username ada is that of Ada Lovelace",)


def test_a_newcomer_never_gets_the_account_of_a_student_who_left() -> None:
    found = merged("Eve Else,eve@uni.example,,\n", reserved={"eve"})
    assert found.roster.usernames[-1] == "eve2"
    assert "eve is an account of the course whose student left the roster" in found.notes[0]


@pytest.mark.parametrize(
    "name, username",
    [
        ("Jürgen Groß", "juergen-gross"),
        ("J\u0075\u0308rgen", "juergen"),
        ("Søren Ångström", "soren-angstroem"),
        ("Łukasz Żółć", "lukasz-zolc"),
        ("Siân O'Brien-Ní", "sian-o-brien-ni"),
        ("İpek Işık", "ipek-isik"),
        ("x" * 40, "x" * 31),
        ("3com", "s3com"),
    ],
)
def test_umlauts_accents_and_signs_become_valid_usernames(name: str, username: str) -> None:
    assert merged(f"{name},,1,\n", Roster()).roster.usernames == (username,)


def test_a_long_username_that_is_taken_stays_valid() -> None:
    found = merged(f"{'x' * 40},,1,\n{'x' * 40},,2,\n", Roster()).roster.usernames
    assert found == ("x" * 31, "x" * 30 + "2")


def test_a_name_of_another_script_falls_back_to_the_id_and_else_is_refused() -> None:
    assert merged("王小明,,4711,\n", Roster()).roster.usernames == ("s4711",)
    assert refusal("王小明,,,\n", Roster()) == (
        'list.csv line 2: 王小明: no username can be made from "王小明"; try another --username-from',
    )


def test_a_line_for_each_group_is_one_student() -> None:
    found = merged("Eve,eve@x.example,,A\nEve,eve@x.example,9,B\nEve,eve@x.example,,A\n", Roster())
    (eve,) = found.roster
    assert (eve.section, eve.student_id) == ("A, B", "9")


@pytest.mark.parametrize(
    "rows, words",
    [
        ("Anna,,,\nAnna,,,\n", "lines 2 and 3: both are Anna, and neither has an e-mail address or an ID"),
        ("Anna,a@x.example,1,\nBea,a@x.example,2,\n", "lines 2 (Anna) and 3 (Bea) have the same e-mail address"),
        ("Anna,a@x.example,1,\nAnna,a@x.example,2,\n", "lines 2 (Anna) and 3 (Anna) have the same e-mail address"),
        ("Anna,a@x.example,1,\nBea,b@x.example,1,\n", "lines 2 (Anna) and 3 (Bea) have the same ID"),
        ("Ada,ada@uni.example,1,\nEve,e@x.example,07,\n", "both would be ada of the roster"),
    ],
)
def test_what_could_be_one_person_or_two_is_refused(rows: str, words: str) -> None:
    problems = refusal(rows)
    assert any(words in problem for problem in problems), problems


def test_every_line_that_is_not_certain_is_named_at_once() -> None:
    assert len(refusal("王,,,\n明,,,\nAnna,a@x.example,1,\nBea,a@x.example,2,\n")) == 3


def test_the_roster_is_written_as_it_is_read() -> None:
    found = merged('Eve Else,eve@x.example,,"A, ""B"""\n').roster
    for delimiter in ",;\t":
        again = roster.parse(merging.csv_text(found, delimiter).encode(), "students.csv")
        assert roster_diff.diff(found, again).is_empty and len(again) == 3


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_names_become_usernames_of_their_own_or_a_refusal(names: list[str]) -> None:
    rows = "".join(f'"{name.replace(chr(34), chr(39))}",{number}@x.example,,\n' for number, name in enumerate(names))
    try:
        found = merged(rows + "Eve,eve@x.example,,\n").roster
    except InputError as error:
        assert all(problem.isprintable() for problem in error.problems)
        return
    assert all(map(USERNAME.fullmatch, found.usernames)) and len(set(found.usernames)) == len(found)
    assert roster_diff.diff(found, roster.parse(merging.csv_text(found).encode(), "x")).is_empty
