"""An export and the roster that is there become one roster: known students keep usernames and extra columns.

Nothing is guessed: what could be one person or two is refused, naming both lines.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nblauncher.config import roster as rosters
from nblauncher.config.class_list.export import Person
from nblauncher.errors import InputError
from nblauncher.model import USERNAME, Roster, Student
from nblauncher.printable import printable, spreadsheet_cell

_FROM_EXPORT = ("name", "email", "student_id", "section", "seat", "extra_time")
_LONGEST = 31


@dataclass(frozen=True, slots=True)
class Merged:
    """The roster that would be written."""

    roster: Roster
    absent: tuple[str, ...]
    """Usernames of students in the roster who are not in the export."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """username → line of the export."""
    notes: tuple[str, ...] = ()
    """Usernames that are not the obvious ones, and why."""


def merge(
    people: Sequence[Person],
    known: Roster,
    source: str,
    *,
    drops_absent: bool = False,
    reserved: Collection[str] = frozenset(),
) -> Merged:
    """InputError names every line that cannot become a student with certainty; nothing was changed then.

    `drops_absent`: students who are not in the export leave the roster. `reserved`: usernames of the course that no
    newcomer may get, because their accounts hold the work of students who left the roster.
    """
    problems: list[str] = []
    notes: list[str] = []
    people = tuple(_once(people, source, problems))
    found = _match(people, known, source, problems)
    taken = {*known.usernames, *reserved}
    updated = {student.username: _updated(student, person) for person, student in found}
    lines = {student.username: person.line for person, student in found}
    matched = {person for person, _student in found}
    others = _Others()
    for student in known:
        others.add(student)
    added: list[Student] = []
    for person in people:
        if person in matched:
            continue
        username = _username(person, taken, source, problems)
        if username:
            notes += _note(person, username, others)
            taken.add(username)
            lines[username] = person.line
            added.append(_updated(Student(username), person))
            others.add(added[-1])
    if problems:
        raise InputError(problems, "Nothing was changed.")
    absent = tuple(student.username for student in known if student.username not in updated)
    kept = [
        updated.get(student.username, student) for student in known if not (drops_absent and student.username in absent)
    ]
    return Merged(Roster((*kept, *added)), absent, lines, tuple(notes))


def csv_text(roster: Roster, delimiter: str = ",") -> str:
    """The roster as a file: known columns first, then all others. Only what the export brought was changed."""
    students = list(roster)
    used = [
        column
        for column in rosters.COLUMNS
        if column in ("username", "name", "email", "section") or any(getattr(one, column) for one in students)
    ]
    extra = list(dict.fromkeys(column for one in students for column, _cell in one.extra))
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow([*used, *extra])
    for one in students:
        others = dict(one.extra)
        writer.writerow([*(getattr(one, column) for column in used), *(others.get(column, "") for column in extra)])
    return stream.getvalue()


def _once(people: Sequence[Person], source: str, problems: list[str]) -> Iterator[Person]:
    """Each person once: an export may have a line for each group that a student is in."""
    merged: dict[tuple[str, str, str], Person] = {}
    for person in people:
        identity = (_folded(person.email), "" if person.email else _folded(person.student_id), _folded(person.name))
        one = merged.get(identity)
        if one is None:
            merged[identity] = person
        elif not (person.email or person.student_id):
            problems.append(
                f"{source} lines {one.line} and {person.line}: both are {_called(person)}, and neither has an e-mail"
                " address or an ID: one student or two?"
            )
        elif person.student_id and one.student_id and _folded(person.student_id) != _folded(one.student_id):
            problems.append(_shared((one, person), "e-mail address", source))
        else:
            merged[identity] = _in_both(one, person)
    for value, what in ((lambda one: one.email, "e-mail address"), (lambda one: one.student_id, "ID")):
        problems += _shared_by_several(merged.values(), value, what, source)
    yield from merged.values()


def _shared_by_several(
    people: Iterable[Person], value: Callable[[Person], str], what: str, source: str
) -> Iterator[str]:
    having: dict[str, list[Person]] = defaultdict(list)
    for person in people:
        having[_folded(value(person))].append(person)
    yield from (_shared(same, what, source) for text, same in having.items() if text and len(same) > 1)


def _shared(people: Sequence[Person], what: str, source: str) -> str:
    where = " and ".join(f"{person.line} ({_called(person)})" for person in people[:5])
    return f"{source} lines {where} have the same {what}: one student or two?"


def _in_both(one: Person, other: Person) -> Person:
    sections = dict.fromkeys(part for person in (one, other) for part in person.section.split(", ") if part)
    return replace(one, section=", ".join(sections), student_id=one.student_id or other.student_id)


def _match(people: Sequence[Person], known: Roster, source: str, problems: list[str]) -> list[tuple[Person, Student]]:
    """The students of the roster whom the export has: by e-mail address or ID, else by username or name."""
    by = _Indices(known, Counter(_folded(person.name) for person in people))
    found: list[tuple[Person, Student]] = []
    partners: dict[str, Person] = {}
    for person in people:
        candidates = by.candidates(person)
        if len(candidates) > 1:
            problems.append(
                f"{source} line {person.line}: {_called(person)} has the e-mail address and the ID of two students of"
                f" the roster: {', '.join(candidates)}"
            )
        for student in candidates.values():
            if other := partners.get(student.username):
                problems.append(
                    f"{source} lines {other.line} ({_called(other)}) and {person.line} ({_called(person)}): both would"
                    f" be {student.username} of the roster"
                )
            partners[student.username] = person
            found.append((person, student))
    return found


class _Indices:
    """The students of the roster by what identifies them."""

    def __init__(self, known: Roster, names: Mapping[str, int]) -> None:
        self.by_email = _index(known, lambda student: student.email)
        self.by_id = _index(known, lambda student: student.student_id)
        self.by_name = _index(known, lambda student: student.name)
        self.by_username = {student.username: student for student in known}
        self.names = names
        """How often each name is in the export."""

    def candidates(self, person: Person) -> dict[str, Student]:
        """Username and name count only where neither e-mail address nor ID says that they are two people."""
        certain = (*self.by_email.get(_folded(person.email), ()), *self.by_id.get(_folded(person.student_id), ()))
        if certain:
            return {student.username: student for student in certain}
        named = self.by_username.get(person.login)
        if named and not _differs(person, named) and (not named.name or _folded(named.name) == _folded(person.name)):
            return {named.username: named}
        same = [one for one in self.by_name.get(_folded(person.name), ()) if not _differs(person, one)]
        is_one = len(same) == 1 and self.names[_folded(person.name)] == 1
        return {same[0].username: same[0]} if is_one else {}


def _index(known: Roster, value: Callable[[Student], str]) -> dict[str, list[Student]]:
    index: dict[str, list[Student]] = defaultdict(list)
    for student in known:
        if text := _folded(value(student)):
            index[text].append(student)
    return index


def _differs(person: Person, student: Student) -> bool:
    """Whether an e-mail address or ID says that they are two people."""
    pairs = ((person.email, student.email), (person.student_id, student.student_id))
    return any(one and other and _folded(one) != _folded(other) for one, other in pairs)


def _updated(student: Student, person: Person) -> Student:
    """An empty cell of the export never empties one of the roster, and another case is not a change."""
    cells = {column: getattr(person, column) for column in _FROM_EXPORT}
    new = {
        column: cell for column, cell in cells.items() if cell and _folded(cell) != _folded(getattr(student, column))
    }
    return replace(student, **new)


def _username(person: Person, taken: Collection[str], source: str, problems: list[str]) -> str:
    """A free username; '' and a problem where none can be made."""
    base = _wanted(person)
    if not base:
        what = f'from "{printable(person.wishes[0])}"' if person.wishes else "from an empty cell"
        problems.append(
            f"{source} line {person.line}: {_called(person)}: no username can be made {what}; try another"
            " --username-from"
        )
        return ""
    number, username = 1, base
    while username in taken:
        number += 1
        username = f"{base[: _LONGEST - len(str(number))].rstrip('-_')}{number}"
    return username


def _wanted(person: Person) -> str:
    made = (wish if USERNAME.fullmatch(wish) else rosters.suggest(wish) for wish in person.wishes)
    return next(filter(USERNAME.fullmatch, made), "")


@dataclass
class _Others:
    """The students so far."""

    names: dict[str, str] = field(default_factory=dict)
    """username → name."""
    namesakes: dict[str, list[str]] = field(default_factory=dict)
    """Folded name → usernames."""

    def add(self, student: Student) -> None:
        self.names[student.username] = student.name
        if student.name:
            self.namesakes.setdefault(_folded(student.name), []).append(student.username)


def _note(person: Person, username: str, others: _Others) -> Iterator[str]:
    if same := others.namesakes.get(_folded(person.name)):
        yield f"two people are called {_called(person)}: {', '.join(same)} and {username}"
    elif (base := _wanted(person)) != username:
        if (name := others.names.get(base)) is None:
            yield (
                f"{username} ({_called(person)}): {base} is an account of the course whose student left the roster; if"
                f" the two are one, write {base} into students.csv instead"
            )
        else:
            whose = printable(name) or "another student"
            yield f"{username} ({_called(person)}): the username {base} is that of {whose}"


def _called(person: Person) -> str:
    return printable(person.name or person.email or person.student_id or "a row without a name")


def _folded(text: str) -> str:
    """Equal for cells that mean the same, also where one was made harmless and the other was not."""
    return " ".join(spreadsheet_cell(text).casefold().split())
