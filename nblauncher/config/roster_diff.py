"""What a changed students.csv changes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from nblauncher.model import Roster, Student
from nblauncher.printable import printable

_FEW = 3
"""Differences that are told one by one."""
_MOST_NAMES = 10


@dataclass(frozen=True, slots=True)
class Change:
    """A changed cell, of a student in both rosters."""

    username: str
    column: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RosterDiff:
    """The differences between two rosters. A vanished student is reported, never removed."""

    added: tuple[Student, ...] = ()
    vanished: tuple[Student, ...] = ()
    changed: tuple[Change, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.vanished or self.changed)

    def describe(self) -> tuple[str, ...]:
        """A line per difference, safe to show."""
        return (
            *(f"+ {student.username}{_called(student)}" for student in self.added),
            *(f"- {student.username}{_called(student)}" for student in self.vanished),
            *(
                f'~ {change.username}: {printable(change.column)} was "{printable(change.old)}", '
                f'is "{printable(change.new)}"'
                for change in self.changed
            ),
        )

    def summary(self) -> tuple[str, ...]:
        """`describe`, or one line of counts where that would be long."""
        lines = self.describe()
        if len(lines) <= _FEW:
            return lines
        gone = [student.username for student in self.vanished]
        changed = list(dict.fromkeys(change.username for change in self.changed))
        counts = [
            f"{len(self.added)} new" if self.added else "",
            f"{len(gone)} gone ({_names(gone)})" if gone else "",
            f"{len(changed)} changed ({_names(changed)})" if changed else "",
        ]
        return (", ".join(filter(None, counts)),)


def diff(old: Roster, new: Roster) -> RosterDiff:
    """The differences, in the order of the rosters. The order of rows and columns does not count."""
    before = {student.username: student for student in old}
    after = {student.username: student for student in new}
    return RosterDiff(
        added=tuple(student for student in new if student.username not in before),
        vanished=tuple(student for student in old if student.username not in after),
        changed=tuple(
            change
            for student in new
            if student.username in before
            for change in _changes(before[student.username], student)
        ),
    )


def _names(usernames: Sequence[str]) -> str:
    more = len(usernames) - _MOST_NAMES
    return ", ".join(usernames[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _called(student: Student) -> str:
    return f" ({printable(student.name)})" if student.name else ""


def _changes(old: Student, new: Student) -> Iterator[Change]:
    for field in fields(Student):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name not in ("extra", "line") and before != after:
            yield Change(new.username, field.name, before, after)
    extra_before, extra_after = dict(old.extra), dict(new.extra)
    for column in dict.fromkeys([*extra_after, *extra_before]):
        before, after = extra_before.get(column, ""), extra_after.get(column, "")
        if before != after:
            yield Change(new.username, column, before, after)
