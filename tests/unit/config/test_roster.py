"""students.csv as people really send it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.config import roster, roster_diff
from nblauncher.errors import InputError
from nblauncher.model import USERNAME, Roster


def parsed(data: bytes) -> Roster:
    return roster.parse(data, "students.csv")


def refusal(data: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        parsed(data)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"username,name\nada,Ada\nbob,Bob\n",
        b"username,name\r\nada,Ada\r\nbob,Bob\r\n",
        b"username,name\rada,Ada\rbob,Bob",
        b"\xef\xbb\xbfusername,name\nada,Ada\nbob,Bob",
        b"username;name\nada;Ada\nbob;Bob\n",
        b"username\tname\nada\tAda\nbob\tBob\n",
        b"name,username\nAda,ada\nBob,bob\n",
        b"\n\nUsername,NAME\n\nada,Ada\n,\n  \nbob,Bob\n\n",
        b'"username","name"\n"ada","Ada"\n"bob","Bob"\n',
        b"username;name;;\nada;Ada;;\nbob;Bob;;\n",
        b"username,name,seat,section\nada,Ada\nbob,Bob,\n",
        b"username,name\nada,Ada,,,\nbob,Bob, ,\n",
        b"sep=;\r\nusername;name\r\nada;Ada\r\nbob;Bob\r\n",
        b'\xef\xbb\xbf"SEP=|"\nusername|name\nada|Ada\nbob|Bob\n',
        b"sep=\t\nusername\tname\nada\tAda\nbob\tBob\n",
        b"sep=,;;\nusername,name\nada,Ada\nbob,Bob\n",
        b"username;name\nada;Ada\nbob;Bob\n;;;;\n;;;;\n\xc2\xa0;\n",
        b"\xef\xbb\xbf\xef\xbb\xbfusername,\xc2\xa0Name\nada,Ada\nbob,Bob\n",
    ],
    ids=[
        "lf",
        "crlf",
        "cr",
        "bom",
        "semicolon",
        "tab",
        "order",
        "blank lines",
        "quotes",
        "unnamed empty columns",
        "dropped empty cells",
        "more empty cells",
        "sep",
        "sep quoted",
        "sep tab",
        "sep with cells",
        "separators at the end",
        "two boms",
    ],
)
def test_the_usual_forms_of_csv_are_the_same_roster(data: bytes) -> None:
    assert [(student.username, student.name, student.extra) for student in parsed(data)] == [
        ("ada", "Ada", ()),
        ("bob", "Bob", ()),
    ]


def test_known_columns_are_recognised_and_every_other_one_is_kept() -> None:
    data = "username,Student ID,extra-time,Laptop,Größe\nada,07,25 %,own,M\n".encode()
    (student,) = parsed(data)
    assert (student.student_id, student.extra_time) == ("07", "25 %")
    assert student.extra == (("Laptop", "own"), ("Größe", "M"))


def test_only_the_header_decides_the_delimiter() -> None:
    (student,) = parsed(b"username,name\nada,a;b;c;d;e;f\n")
    assert student.name == "a;b;c;d;e;f"


def test_a_newline_in_a_quoted_name_stays_in_that_cell() -> None:
    first, second = parsed(b'username,name\nada,"Ada\nroot:x:0:0::/:/bin/sh"\nbob,Bob\n')
    assert first.name == "Ada\nroot:x:0:0::/:/bin/sh"
    assert (second.username, second.line) == ("bob", 4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            "username,name\nada,José\n".encode("cp1252"),
            'line 2, byte 22: not UTF-8 (read as Windows-1252 it would say "José"',
        ),
        ("username\nada\n".encode("utf-16"), "byte 1: this is UTF-16"),
        (b"username\nada\0\n", "line 2, byte 13: a NUL byte"),
        (b"username,name\nada,Ada\nusername,name\nbob,Bob\n", "line 3: a second header line, after that in line 1"),
        (b"username,name\nada,Ada\nName, USERNAME\nBob,bob\n", "line 3: a second header line"),
        (b"username,name\nada,Ada\n\xef\xbb\xbfusername,name\nbob,Bob\n", "line 3: a second header line"),
        (b"username,name\nada,Ada\nusername\nbob\n", "line 3: a second header line"),
        (b"sep=;\nusername;name\nada;Ada\nusername;name\n", "line 4: a second header line, after that in line 2"),
        (b"name,username\nAda\n", "line 2: the username is empty"),
        (b"username,name\n\xef\xbb\xbfada,Ada\n", "holds a character that cannot be seen"),
        (b"username,name\n\xc2\xa0ada,Ada\n", "begins or ends with white space"),
        ("sep=\t\nusername\tname\nada\tAda\n".encode("utf-16"), "byte 1: this is UTF-16"),
        (b"username,name\nada,Ada,x\n", "line 2: 3 cells, but the header has 2"),
        (b'username,name\nada,"Ada\nbob,Bob\n', "line 2: a quote opens in this row and is never closed"),
        (b'username,name\nada,"A" x\n', "line 2: a quoted cell must end at a delimiter"),
        (b"username,name,Name\nada,x,y\n", 'line 1: the column "Name" is there twice'),
        (b"username,USERNAME\nada,bob\n", 'line 1: the column "USERNAME" is there twice'),
        (b"user name,name\nada,Ada\n", 'line 1: there is no column username; is "user name" meant to be it?'),
        (b"a,b\nx,y\n", 'line 1: there is no column username; found "a", "b"'),
        (b"", "students.csv is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "students.csv is empty"),
        (b"username\n", "students.csv has a header and no students"),
        (b"username\n" + b"a" * (1 << 20), "larger than 1 MiB"),
        (b"username,\nada,x\n", 'line 2: the cell "x" is in a column without a name'),
        (b"username,name\nada," + b"x" * 200_000 + b"\n", "line 2: a cell is longer than 131072 characters"),
    ],
)
def test_a_file_that_is_not_a_roster_is_refused_naming_the_place(data: bytes, words: str) -> None:
    assert words in str(refusal(data))


@pytest.mark.parametrize(
    ("username", "words", "hint"),
    [
        ("José", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "jose".'),
        ("-rf", "must begin with a letter a-z", 'Nothing was changed. Try "rf".'),
        ("../x", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "x".'),
        ("a b", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "a-b".'),
        ("a:b", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "a-b".'),
        ("A", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "a".'),
        ("a" * 40, "has 40 characters; 31 are the most", f'Nothing was changed. Try "{"a" * 31}".'),
        ("аda", '("а" is CYRILLIC SMALL LETTER A)', "Nothing was changed."),
        ("anna.schmidt", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "anna-schmidt".'),
        ("ada@uni.edu", "may use only a-z, 0-9, - and _", 'Nothing was changed. Try "ada".'),
        ("12345", "must begin with a letter a-z", 'Nothing was changed. Try "s12345".'),
        ('"ada\n"', "begins or ends with white space", 'Nothing was changed. Try "ada".'),
        (" ada", "begins or ends with white space", 'Nothing was changed. Try "ada".'),
        ('""', "the username is empty", "Nothing was changed."),
        ("ада", "may use only a-z, 0-9, - and _", "Nothing was changed."),
        ("straße", "may use only", 'Nothing was changed. Try "strasse".'),
    ],
)
def test_a_bad_username_is_refused_with_its_line_and_perhaps_a_better_one(username: str, words: str, hint: str) -> None:
    error = refusal(f"username,name\nbob,x\n{username},y\n".encode())
    assert error.problem.startswith("students.csv line 3: ") and words in error.problem
    assert error.hint == hint


def test_every_bad_line_is_named_at_once() -> None:
    error = refusal("username,name\nJosé,x\nada,x,y\nada,x\nbob,y\nBOB,z\n1,x\n".encode())
    assert error.problems == (
        'students.csv line 2: username "José" may use only a-z, 0-9, - and _; try "jose"',
        "students.csv line 3: 3 cells, but the header has 2",
        'students.csv line 6: username "BOB" may use only a-z, 0-9, - and _',
        'students.csv line 6: username "BOB" is already in line 5',
        'students.csv line 7: username "1" must begin with a letter a-z; try "s1"',
    )
    assert error.hint == "Nothing was changed."


@pytest.mark.parametrize("second", ["ada", "ADA", "ada ", "ａｄａ", "Ada"])
def test_names_that_a_person_would_take_for_the_same_are_duplicates(second: str) -> None:
    assert "is already in line 2" in str(refusal(f"username,x\nada,1\n{second},2\n".encode()))


def test_a_suggestion_is_never_the_name_of_another_student() -> None:
    assert "try" not in str(refusal("username\nJosé\njose\n".encode())).lower()


def test_two_students_are_never_offered_the_same_name() -> None:
    error = refusal(b"username\nada@a.edu\nada@b.edu\nbob@b.edu\n")
    assert [problem.rpartition("try ")[2] for problem in error.problems if "try" in problem] == ['"bob"']


def test_escape_sequences_of_the_file_do_not_reach_the_terminal() -> None:
    error = refusal(b"username,x\x1b]0;owned\x07\n\x1b[2Jada,1\n\xe2\x80\xaebob,2\n")
    assert "\x1b" not in str(error) and "\u202e" not in str(error)
    assert "\\x1b[2Jada" in str(error)


def test_a_diff_names_who_came_who_went_and_what_changed() -> None:
    old = parsed(b"username,name,laptop\nada,Ada,own\nbob,Bob,\neve,Eve,\n")
    new = parsed(b"laptop,name,username\n,Bob,bob\nloan,Ada L.,ada\n,Zoe,zoe\n")
    assert roster_diff.diff(old, new).describe() == (
        "+ zoe (Zoe)",
        "- eve (Eve)",
        '~ ada: name was "Ada", is "Ada L."',
        '~ ada: laptop was "own", is "loan"',
    )


def test_a_new_roster_is_told_in_one_line_and_a_few_differences_one_by_one() -> None:
    old = parsed(b"username,seat\nada,1\nben,2\neva,3\n")
    names = "".join(f"s{number},\n" for number in range(46))
    new = parsed(f"username,seat\nada,9\n{names}".encode())
    assert roster_diff.diff(old, new).summary() == ("46 new, 2 gone (ben, eva), 1 changed (ada)",)
    few = roster_diff.diff(old, parsed(b"username,seat\nada,9\nben,2\n"))
    assert few.summary() == few.describe() == ("- eva", '~ ada: seat was "1", is "9"')


def test_another_order_of_rows_and_columns_is_no_difference() -> None:
    old = parsed(b"username,name\nada,Ada\nbob,Bob\n")
    new = parsed(b"name,username\nBob,bob\nAda,ada\n")
    assert roster_diff.diff(old, new).is_empty


@given(st.binary(max_size=300))
def test_any_bytes_are_a_roster_or_an_input_error(data: bytes) -> None:
    try:
        found = parsed(data)
    except InputError as error:
        assert all(problem.isprintable() for problem in error.problems)
    else:
        assert all(USERNAME.fullmatch(name) for name in found.usernames)
        assert len(set(found.usernames)) == len(found)


@given(st.text(max_size=50))
def test_a_suggestion_is_always_legal(text: str) -> None:
    suggestion = roster.suggest(text)
    assert suggestion == "" or USERNAME.fullmatch(suggestion)


@given(st.lists(st.text(alphabet='username,;\t"\r\n aA1é\x00', max_size=12), max_size=8))
def test_any_mixture_of_the_usual_characters_is_a_roster_or_an_input_error(rows: list[str]) -> None:
    try:
        parsed(("username,name\n" + "\n".join(rows)).encode())
    except InputError as error:
        assert error.problems
