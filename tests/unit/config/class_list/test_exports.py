"""Class lists as Moodle, Canvas, Blackboard, ILIAS and Google Classroom export them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nblauncher.config.class_list import export
from nblauncher.config.class_list.export import Export
from nblauncher.errors import InputError
from tests.workbooks import sheet, workbook

MOODLE = (
    "First name,Last name,Email address,Roles,Groups,Last access to course\n"
    'Ada,Lovelace,ada@uni.example,Student,"Group A, Group B",now\n'
    "Jürgen,Müller,j.mueller@uni.example,Student,No groups,never\n"
    "Kim,Lee,kim@uni.example,Non-editing teacher,Group A,now\n"
)
MOODLE_DE = (
    "Vorname;Nachname;E-Mail-Adresse;Rollen;Gruppen;Letzter Zugriff auf den Kurs\n"
    "Ada;Lovelace;ada@uni.example;Teilnehmer/in;Group A, Group B;jetzt\n"
    "Jürgen;Müller;j.mueller@uni.example;Teilnehmer/in;Keine Gruppen;nie\n"
    "Kim;Lee;kim@uni.example;Trainer/in ohne Bearbeitungsrecht;;jetzt\n"
)
GRADES = (
    "First name,Last name,ID number,Institution,Department,Email address,Quiz: one (Real),Course total (Real),"
    "Last downloaded from this course\n"
    "Ada,Lovelace,07,,,ada@uni.example,9,9,1764000000\n"
    "Jürgen,Müller,08,,,j.mueller@uni.example,-,-,1764000000\n"
    "Overall average,,,,,,4.5,4.5,\n"
)
GRADES_DE = (
    "Vorname,Nachname,ID-Nummer,Institution,Abteilung,E-Mail-Adresse,Test: eins (Punkte),Kurs gesamt (Punkte),"
    "Letzter Download aus diesem Kurs\n"
    "Ada,Lovelace,07,,,ada@uni.example,9,9,1764000000\n"
    "Jürgen,Müller,08,,,j.mueller@uni.example,-,-,1764000000\n"
    "Gesamtdurchschnitt,,,,,,4.5,4.5,\n"
)
CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,Homework 1 (123),Final Score\n"
    ",,,,,Manual Posting,\n"
    "    Points Possible,,,,,10,(read only)\n"
    '"Lovelace, Ada",11,07,ada@uni.example,Monday,9,9\n'
    '"Müller, Jürgen",12,08,j.mueller@uni.example,Tuesday,9,9\n'
    '"Student, Test",13,,6f1ed002ab,Monday,,\n'
)
BLACKBOARD = (
    '"Last Name"\t"First Name"\t"Username"\t"Student ID"\t"Last Access"\t"Availability"\t"Total [Total Pts: 10] |1"\n'
    '"Lovelace"\t"Ada"\t"ada"\t"07"\t"now"\t"Yes"\t"9"\n'
    '"Müller"\t"Jürgen"\t"j.mueller"\t"08"\t"now"\t"Yes"\t"9"\n'
)
BLACKBOARD_DE = (
    BLACKBOARD.replace("Last Name", "Nachname")
    .replace("First Name", "Vorname")
    .replace("Username", "Benutzername")
    .replace("Student ID", "Matrikelnummer")
    .replace("Last Access", "Letzter Zugriff")
    .replace("Availability", "Verfügbarkeit")
)
ILIAS = (
    "Login;Last name;First name;E-mail;Matriculation number;Role/Status\n"
    "ada;Lovelace;Ada;ada@uni.example;07;Course Member\n"
    "j.mueller;Müller;Jürgen;j.mueller@uni.example;08;Course Member\n"
    "kim;Lee;Kim;kim@uni.example;;Course Administrator\n"
)
ILIAS_DE = (
    "Anmeldename;Nachname;Vorname;E-Mail;Matrikelnummer;Rolle/Status\n"
    "ada;Lovelace;Ada;ada@uni.example;07;Kursmitglied\n"
    "j.mueller;Müller;Jürgen;j.mueller@uni.example;08;Kursmitglied\n"
    "kim;Lee;Kim;kim@uni.example;;Kursadministrator\n"
)
CLASSROOM = (
    "Last Name,First Name,Email Address,Essay\n"
    ",,Date,2026-11-01\n"
    ",Points,,100\n"
    "Lovelace,Ada,ada@uni.example,90\n"
    "Müller,Jürgen,j.mueller@uni.example,80\n"
    "Class average,,,85\n"
)
CLASSROOM_DE = (
    "Nachname,Vorname,E-Mail-Adresse,Aufsatz\n"
    "Datum,,,2026-11-01\n"
    "Punkte,,,100\n"
    "Lovelace,Ada,ada@uni.example,90\n"
    "Müller,Jürgen,j.mueller@uni.example,80\n"
)
SYSTEMS = {
    "Moodle": (MOODLE, MOODLE_DE, GRADES, GRADES_DE),
    "Canvas": (CANVAS,),
    "Blackboard": (BLACKBOARD, BLACKBOARD_DE),
    "ILIAS": (ILIAS, ILIAS_DE),
    "Google Classroom": (CLASSROOM, CLASSROOM_DE),
}
EXPORTS = [(system, text) for system, texts in SYSTEMS.items() for text in texts]


def understood(data: bytes | str, username_from: str = "") -> Export:
    return export.read(data if isinstance(data, bytes) else data.encode(), "list.csv", username_from)


def refusal(data: bytes | str, username_from: str = "") -> InputError:
    with pytest.raises(InputError) as caught:
        understood(data, username_from)
    assert "Nothing was changed" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("system, text", EXPORTS)
def test_the_same_two_students_are_in_every_export_and_nobody_else(system: str, text: str) -> None:
    found = understood(text)
    assert [(one.name, one.wishes[0].partition("@")[0]) for one in found.people] == [
        ("Ada Lovelace", "ada"),
        ("Jürgen Müller", "j.mueller"),
    ]
    assert found.system == system
    if system in ("Canvas", "Blackboard", "ILIAS") or "ID" in text:
        assert [one.student_id for one in found.people] == ["07", "08"]
    if system != "Blackboard":
        assert [one.email for one in found.people] == ["ada@uni.example", "j.mueller@uni.example"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("text", [text for _system, text in EXPORTS])
def test_encodings_of_excel_and_of_blackboard_are_read(text: str, encoding: str) -> None:
    found = understood(text.encode(encoding))
    assert [one.name for one in found.people] == ["Ada Lovelace", "Jürgen Müller"]
    assert found.encoding == ("Windows-1252" if encoding == "cp1252" else "")


def test_sections_come_from_groups_and_sections() -> None:
    assert [one.section for one in understood(MOODLE).people] == ["Group A, Group B", ""]
    assert [one.section for one in understood(MOODLE_DE).people] == ["Group A, Group B", ""]
    assert [one.section for one in understood(CANVAS).people] == ["Monday", "Tuesday"]


@pytest.mark.parametrize(
    "text, reasons",
    [
        (MOODLE, [(4, "Kim Lee: Non-editing teacher")]),
        (MOODLE_DE, [(4, "Kim Lee: Trainer/in ohne Bearbeitungsrecht")]),
        (GRADES, [(4, "Overall average: not a person")]),
        (CANVAS, [(3, "Points Possible: not a person"), (6, "Student, Test: the test student")]),
        (ILIAS_DE, [(4, "Kim Lee: Kursadministrator")]),
        (CLASSROOM_DE, [(2, "Datum: not a person"), (3, "Punkte: not a person")]),
    ],
)
def test_rows_that_are_not_students_are_told(text: str, reasons: list[tuple[int, str]]) -> None:
    assert list(understood(text).left_out) == reasons


def test_columns_that_are_not_taken_are_told() -> None:
    assert understood(CANVAS).ignored == ("ID", "Homework 1 (123)", "Final Score")


@pytest.mark.parametrize(
    "asked, wishes",
    [
        ("ID number", ["07", "08"]),
        ("id-number", ["07", "08"]),
        ("email", ["ada@uni.example", "j.mueller@uni.example"]),
        ("name", ["Ada Lovelace", "Jürgen Müller"]),
        ("Institution", [None, None]),
    ],
)
def test_usernames_are_made_from_the_column_that_was_asked_for(asked: str, wishes: list[str | None]) -> None:
    assert [next(iter(one.wishes), None) for one in understood(GRADES, asked).people] == wishes


def test_a_column_that_is_not_there_is_refused_naming_those_that_are() -> None:
    error = refusal(MOODLE, "Matrikelnummer")
    assert 'no column "Matrikelnummer"' in error.problem and '"Email address"' in error.problem


def test_a_formula_stays_data_and_is_harmless_in_a_spreadsheet() -> None:
    (person,) = understood("Name,E-mail,Gruppe\n\"=cmd|' /C calc'!A0\",@x.example,+1\n").people
    assert (person.name, person.email, person.section) == ("'=cmd|' /C calc'!A0", "'@x.example", "'+1")


def test_a_name_in_two_lines_is_one_line_without_marks() -> None:
    (person,) = understood('Name,E-mail\n"\u200eAda\n\x1b[2J  Lovelace",ada@uni.example\n').people
    assert person.name == "Ada \\x1b[2J Lovelace"


@pytest.mark.parametrize(
    "name, shown",
    [
        ("Lovelace, Ada", "Ada Lovelace"),
        ("King, Jr.", "King, Jr."),
        ("Lovelace,", "Lovelace,"),
        ("a, b, c", "a, b, c"),
        ("王小明", "王小明"),
    ],
)
def test_a_name_that_was_sorted_is_put_right(name: str, shown: str) -> None:
    assert understood(f"Name\tE-Mail\n{name}\tx@y.example\n").people[0].name == shown


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "is empty"),
        (b"\n\n , \n", "is empty"),
        (b"a,b\n1,2\n", 'the first line has "a", "b"'),
        (b"Name,E-mail\n", "has no students"),
        (b'Name,E-mail\n"Ada,ada@x\nBob,bob@x\n', "line 2: a quote opens in this row and is never closed"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel file of before 2007"),
        (b"%PDF-1.7", "a PDF"),
        (b"<html><table><tr><td>Name</td></tr></table>", "a web page"),
        (b"Name,E-mail\nAda\0,x\n", "not a text file"),
        (b"Name,E-mail\n\x81\x8d,x\n", "neither UTF-8 nor Windows-1252"),
        (b"\xff\xfeN\0a", "has no students"),
        (b"\xff\xfeN\0a\0m\0e\0\n", "not UTF-16"),
        (b"Name,E-mail\n" + b"Ada,a@x.example\n" * 20_001, "more than 20000 rows"),
        (b"PK\x03\x04", "not a workbook that can be read"),
    ],
)
def test_what_is_not_a_class_list_is_refused_with_the_way_out(data: bytes, words: str) -> None:
    if words == "has no students":
        data = data if data.startswith(b"Name") else "Name,E-mail\n".encode("utf-16")
    assert words in refusal(data).problem


ROWS = [["Vorname", "Nachname", "E-Mail-Adresse", "ID-Nummer"], ["Ada", "Lovelace", "ada@uni.example", ""]]


def test_a_workbook_is_read_from_its_first_visible_sheet() -> None:
    (person,) = understood(workbook(ROWS)).people
    assert (person.line, person.name, person.email) == (2, "Ada Lovelace", "ada@uni.example")


def test_cells_of_every_kind_are_what_a_csv_would_have() -> None:
    body = (
        '<row><c t="inlineStr"><is><t>First name</t></is></c><c t="inlineStr"><is><t>Last name</t></is></c>'
        '<c t="inlineStr"><is><t>ID number</t></is></c><c t="inlineStr"><is><t>Groups</t></is></c>'
        '<c t="inlineStr"><is><t>Username</t></is></c></row>'
        '<row r="7"><c r="A7" t="inlineStr"><is><r><t>A</t></r><r><t>da</t></r><rPh><t>x</t></rPh></is></c>'
        '<c r="B7" t="str"><f>HYPERLINK("http://x.example")</f><v>=Lovelace</v></c>'
        '<c r="C7"><v>4.711023E6</v></c><c r="D7" t="e"><v>#REF!</v></c><c r="E7" t="b"><v>1</v></c>'
        '<c r="XFD7"><v>1</v></c></row>'
    )
    (person,) = understood(workbook([], sheet=sheet(body))).people
    assert (person.line, person.name, person.student_id, person.section) == (7, "Ada =Lovelace", "4711023", "")


@pytest.mark.parametrize(
    "text, name",
    [
        ("Name;Vorname;Matrikelnummer\nLovelace;Ada;07\n", "Ada Lovelace"),
        ("Name;Vorname;Matrikelnummer\nAda Lovelace;Ada;07\n", "Ada Lovelace"),
        ("Vorname;Matrikelnummer\nAda;07\n", "Ada"),
        ("Nachname;Name;Matrikelnummer\nLovelace;Ada Lovelace;07\n", "Ada Lovelace"),
        ("Nachname;Name;Matrikelnummer\nLovelace;Ada;07\n", "Ada Lovelace"),
        ("Nachname;Matrikelnummer\nLovelace;07\n", "Lovelace"),
        ("Name;Matrikelnummer\nLovelace, Ada;07\n", "Ada Lovelace"),
    ],
)
def test_a_name_is_put_together_from_the_columns_that_there_are(text: str, name: str) -> None:
    assert understood(text).people[0].name == name


HUNDRED_TIMES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 100}">' for n in range(1, 9))
ENTITIES = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "lol">{HUNDRED_TIMES}]><x>&e8;</x>'
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/shadow">]><x>&e;</x>'


@pytest.mark.parametrize(
    "parts",
    [
        {"texts": ENTITIES},
        {"sheet": ENTITIES},
        {"relations": EXTERNAL},
        {"book": "<not xml"},
        {"book": "<workbook/>"},
        {"relations": '<Relationships><Relationship Id="rId1" Target="../../etc/passwd"/></Relationships>'},
        {"sheet": sheet('<row r="1e9"><c/></row>')},
        {"sheet": sheet(f'<row r="{"9" * 5000}"><c/></row>')},
        {"sheet": sheet('<row><c t="s"><v>-1</v></c><c t="s"><v>99999</v></c></row>')},
        {"sheet": sheet("<row>" + '<c r="BXX1"><v>1</v></c>' + "</row>" + "<row><c><v>1</v></c></row>" * 20_001)},
        {"sheet": sheet('<row><c r="BXW1"><v>1</v></c></row>' * 2000)},
    ],
)
def test_a_hostile_workbook_is_refused(parts: dict[str, str]) -> None:
    refusal(workbook(ROWS, **parts))


def test_a_spreadsheet_that_is_not_excels_is_refused_with_the_way_out() -> None:
    assert "CSV UTF-8" in refusal(workbook(ROWS)[:200]).hint


@given(st.data())
def test_a_damaged_workbook_is_a_class_list_or_an_input_error(data: st.DataObject) -> None:
    whole = bytearray(workbook(ROWS))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        understood(bytes(whole))
    except InputError as error:
        assert error.problem


@given(st.binary(max_size=300))
def test_any_bytes_are_a_class_list_or_an_input_error(data: bytes) -> None:
    try:
        understood(data)
    except InputError as error:
        assert all(problem.isprintable() for problem in error.problems)


@given(st.lists(st.text(alphabet='Name,;\t"\r\nE-mail@é=\x00', max_size=16), max_size=8))
def test_what_was_understood_travels_between_processes(rows: list[str]) -> None:
    try:
        found = understood("Name,E-mail,ID\n" + "\n".join(rows))
    except InputError:
        return
    assert Export.from_json(json.loads(json.dumps(found.to_json()))) == found
