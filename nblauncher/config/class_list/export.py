"""The people in an exported class list, and the rows of it that are not students."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nblauncher.config.class_list import headers, tables
from nblauncher.config.class_list.headers import Columns, key
from nblauncher.config.class_list.workbook import Row
from nblauncher.errors import InputError
from nblauncher.printable import printable, spreadsheet_cell

MOST_PEOPLE = 5000

_HEADER_WITHIN = 20
_LONGEST = 400
"""Characters of a cell that are kept."""
_ABOUT_COLUMNS = """
    pointspossible moeglichepunkte moeglichepunktzahl erreichbarepunkte maximalepunktzahl points punkte date datum
    duedate faelligkeitsdatum overallaverage groupaverage classaverage average range gesamtdurchschnitt
    gruppendurchschnitt kursdurchschnitt klassendurchschnitt durchschnitt mittelwert bereich
"""
_NOT_A_NAME = frozenset(_ABOUT_COLUMNS.split())
"""What stands in the place of a name in a row about the columns."""
_NO_SECTION = frozenset({"nogroups", "nogroup", "keinegruppen", "keinegruppe"})
_TEST_STUDENTS = frozenset({"student, test", "teststudent, test", "test, student"})
_STUDENT = re.compile(r"student|studier|teilnehm|mitglied|member|learner|lernende|schüler|participant")
_STAFF = re.compile(
    r"teach|trainer|lehr|dozent|manager|tutor|admin|instructor|assist|creator|grader|betreu|leit|guest|gast|observ"
    r"|design|editor|owner"
)
_SUFFIXES = frozenset({"jr", "jr.", "sr", "sr.", "ii", "iii", "iv", "phd", "ph.d.", "dr.", "m.sc.", "b.sc."})


@dataclass(frozen=True, slots=True)
class Person:
    """A student as the export has them. Cells are harmless in a spreadsheet."""

    line: int
    name: str
    email: str = ""
    student_id: str = ""
    section: str = ""
    seat: str = ""
    extra_time: str = ""
    login: str = ""
    """The username there."""
    wishes: tuple[str, ...] = ()
    """What the username is made from; the first of these that gives one."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was understood of a file. Made by the teacher's child, so it travels as JSON."""

    people: tuple[Person, ...]
    left_out: tuple[tuple[int, str], ...]
    """(line, why) of rows that are not students."""
    ignored: tuple[str, ...]
    """Headers of columns that were not taken."""
    system: str
    encoding: str
    """The encoding if it was a guess."""
    made_from: str
    """What usernames are made from, in words."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Export:
        return cls(
            tuple(Person(**{**one, "wishes": tuple(one["wishes"])}) for one in given["people"]),
            tuple((int(line), str(why)) for line, why in given["left_out"]),
            tuple(map(str, given["ignored"])),
            str(given["system"]),
            str(given["encoding"]),
            str(given["made_from"]),
        )


def read(data: bytes, source: str, username_from: str = "") -> Export:
    """The people in `data`. `username_from`: `email`, `name` or a header; '' for the best that there is.

    InputError when there is no table of people in it.
    """
    table = tables.read(data, source, headers.merit)
    columns, body = _header(table.rows, source)
    wish = _Wish(columns, username_from, source)
    people: list[Person] = []
    left_out: list[tuple[int, str]] = []
    for line, row in body:
        if why := _not_a_student(columns, row):
            left_out.append((line, why))
        elif person := _person(line, columns, row, wish):
            people.append(person)
    if len(people) > MOST_PEOPLE:
        raise InputError(f"{source} has more than {MOST_PEOPLE} people: is it one class?", "Nothing was changed.")
    if not people:
        raise InputError(f"{source} has no students", "Nothing was changed.")
    ignored = tuple(printable(text[:_LONGEST]) for text in columns.ignored)
    return Export(tuple(people), tuple(left_out), ignored, columns.system, table.guessed, wish.words)


def _header(rows: Sequence[Row], source: str) -> tuple[Columns, Sequence[Row]]:
    """The best header among the first rows, and what is below it."""
    if not rows:
        raise InputError(f"{source} is empty", "Nothing was changed.")
    merits = [headers.merit(cells) for _line, cells in rows[:_HEADER_WITHIN]]
    best = merits.index(max(merits))
    if not merits[best]:
        found = ", ".join(f'"{printable(cell.strip()[:40])}"' for cell in rows[0][1][:8] if cell.strip())
        raise InputError(
            f"{source}: no column is a name, an e-mail address or a student number; the first line has {found}",
            "Call a column name, email, student_id, section or username. Nothing was changed.",
        )
    return headers.find(rows[best][1]), rows[best + 1 :]


class _Wish:
    """What a username is made from."""

    def __init__(self, columns: Columns, asked: str, source: str) -> None:
        self.columns = columns
        self.column: int | None = None
        self.fields: tuple[str, ...] = ()
        if not asked:
            best = (one for one in (headers.LOGIN, headers.EMAIL) if one in columns.index)
            self.fields = (*best, headers.NAME, headers.ID)
            self.words = {headers.LOGIN: "the username there", headers.EMAIL: "the e-mail address"}.get(
                self.fields[0], "the name"
            )
        elif key(asked) == "name" or (key(asked) in ("email", "mail") and headers.EMAIL in columns.index):
            self.fields = (headers.NAME if key(asked) == "name" else headers.EMAIL,)
            self.words = "the name" if key(asked) == "name" else "the e-mail address"
        else:
            self.column = headers.column_named(columns.header, asked)
            self.words = f'the column "{printable(asked)}"'
            if self.column is None:
                there = ", ".join(f'"{printable(text.strip()[:40])}"' for text in columns.header if text.strip())
                raise InputError(
                    f'--username-from: {source} has no column "{printable(asked)}"; there are {there[:600]}',
                    "Nothing was changed.",
                )

    def of(self, row: Sequence[str], name: str) -> tuple[str, ...]:
        cells = [name if field == headers.NAME else self.columns.cell(row, field) for field in self.fields]
        if self.column is not None and self.column < len(row):
            cells.append(headers.plain(row[self.column]))
        return tuple(cell[:_LONGEST] for cell in cells if cell)


def _not_a_student(columns: Columns, row: Sequence[str]) -> str:
    """Why a row is not a student; '' if it is one, or is blank where a person would be."""
    written = _names(columns, row)
    shown = printable(written[0][:60]) if written else ""
    has_address = bool(_email(columns, row) or columns.cell(row, headers.LOGIN))
    if written and not has_address and any(key(name) in _NOT_A_NAME for name in written):
        return f"{shown}: not a person"
    if any(name.casefold() in _TEST_STUDENTS for name in written):
        return f"{shown}: the test student"
    role = columns.cell(row, headers.ROLE)
    if role and _STAFF.search(role.casefold()) and not _STUDENT.search(role.casefold()):
        return f"{printable(_name(columns, row)[:60])}: {printable(role[:60])}"
    return ""


def _person(line: int, columns: Columns, row: Sequence[str], wish: _Wish) -> Person | None:
    """None for a row that says nothing of a person."""
    name = _name(columns, row)
    known = {
        field: spreadsheet_cell(columns.cell(row, field)[:_LONGEST])
        for field in (headers.ID, headers.SECTION, headers.SEAT, headers.EXTRA_TIME)
    }
    email = spreadsheet_cell(_email(columns, row)[:_LONGEST])
    if key(known[headers.SECTION]) in _NO_SECTION:
        known[headers.SECTION] = ""
    login = columns.cell(row, headers.LOGIN)[:_LONGEST]
    if not (name or email or known[headers.ID] or login):
        return None
    name = spreadsheet_cell(name[:_LONGEST])
    return Person(line, name, email=email, login=login, wishes=wish.of(row, name), **known)


def _email(columns: Columns, row: Sequence[str]) -> str:
    """The address; in Canvas people may sign in with it."""
    cells = (columns.cell(row, field) for field in (headers.EMAIL, headers.LOGIN))
    return next((cell for cell in cells if "@" in cell), "")


def _names(columns: Columns, row: Sequence[str]) -> list[str]:
    cells = (columns.cell(row, field) for field in (headers.NAME, headers.FIRST, headers.LAST))
    return [cell for cell in cells if cell]


def _name(columns: Columns, row: Sequence[str]) -> str:
    """First name, then last name; also of `Lovelace, Ada`, and of columns `Name` and `Vorname`."""
    first, last, name = (columns.cell(row, field) for field in (headers.FIRST, headers.LAST, headers.NAME))
    if (first and last) or not name:
        return " ".join(filter(None, (first, last)))
    if (first or last).casefold() not in name.casefold():
        return f"{first} {name}" if first else f"{name} {last}"
    last, comma, first = name.partition(",")
    is_sorted = comma and last.strip() and first.strip() and "," not in first
    if is_sorted and first.strip().casefold() not in _SUFFIXES:
        return f"{first.strip()} {last.strip()}"
    return name
