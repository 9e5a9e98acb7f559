"""roster import: a class list of the school's system becomes students.csv, and students who are known stay as they are.

Root neither reads the list nor writes the roster: a child that is the teacher does, within bounds of time and memory.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nblauncher.accounts import passwd
from nblauncher.commands import init, inputs, session
from nblauncher.commands.session import Caller
from nblauncher.config import roster, roster_diff, settings
from nblauncher.config.class_list import export, merging
from nblauncher.config.class_list.export import Export
from nblauncher.config.class_list.merging import Merged
from nblauncher.config.roster_diff import RosterDiff
from nblauncher.config.trusted_files import read_trusted, shown
from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.model import Account, Roster, Student
from nblauncher.printable import printable
from nblauncher.system import bounds, files, private_file, workers

_MOST_BYTES = 8_000_000
_SECONDS = 20.0
_MEMORY = 500_000_000
_MOST_TEXT = 3_000_000
"""Characters of a child's answer."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Target:
    """The roster that is written, and the account that writes it."""

    file: Path
    owner: Account
    allowed: frozenset[int]
    """Who may own the roster that is there."""
    members: frozenset[str] = frozenset()
    """Students of the course who are set up, as any account can see them."""


@dataclass(frozen=True)
class Import:
    """What would be written, and what that changes."""

    target: Target
    export: Export
    merged: Merged
    changes: RosterDiff
    before: bytes | None
    """The file as it is; None: there is none."""
    content: bytes
    replaces_sample: bool

    @property
    def changes_nothing(self) -> bool:
        return self.changes.is_empty and not self.replaces_sample

    def kind_of(self, student: Student) -> str:
        """new, changed, kept, absent, or dropped."""
        if student in self.changes.added:
            return "new"
        if student in self.changes.vanished:
            return "dropped"
        if student.username in self.merged.absent:
            return "absent"
        return "changed" if any(one.username == student.username for one in self.changes.changed) else "kept"


def find_target(caller: Caller, config: Path | None, into: Path | None) -> Target:
    """The roster that the config names, else students.csv here. `into` names another."""
    file = _config(config)
    if file is None:
        allowed = frozenset({0, caller.person.uid})
        return Target(Path(os.path.abspath(into or "students.csv")), caller.person, allowed)
    allowed = session.trusted_uids(caller, file)
    parsed = settings.parse(read_trusted(file, allowed_uids=allowed), file, uid_min=inputs.uid_min())
    group = passwd.find_group(f"nbl-{parsed.course}")
    members = frozenset(group.gr_mem if group else ())
    owner = session.owner_of(caller, parsed)
    return Target(Path(os.path.abspath(into or parsed.students)), owner, allowed, members)


def _config(given: Path | None) -> Path | None:
    """The config, if there is one: a class list may come before it."""
    try:
        return session.config_file(given, ())
    except InputError:
        return None


def prepare(caller: Caller, source: Path, target: Target, *, username_from: str = "", drops_absent: bool) -> Import:
    """Read, recognize and merge. InputError when something is not certain; nothing was changed then."""
    if target.owner.uid == os.geteuid() == 0:
        _refuse_foreign_folder(target.file)
    found = _understood(caller.person, source.absolute(), username_from)
    before = read_trusted(target.file, allowed_uids=target.allowed) if os.path.lexists(target.file) else None
    is_sample = before is not None and before == init.sample_files()["students.csv"]
    known = Roster()
    if before is not None and not is_sample:
        known = roster.parse(before, shown(target.file), judges_extra_time=False)
    reserved = target.members - frozenset(known.usernames)
    merged = merging.merge(found.people, known, printable(source.name), drops_absent=drops_absent, reserved=reserved)
    content = _bytes(merged.roster, before if known else None)
    _refuse_unfaithful(merged.roster, content)
    changes = roster_diff.diff(known, merged.roster)
    return Import(target, found, merged, changes, before, content, replaces_sample=is_sample)


def write(made: Import) -> None:
    """Replace the roster, for the teacher's eyes only. RefusedError when it changed since it was read."""
    file = made.target.file
    try:
        workers.run_as(made.target.owner, _replace, file, made.before, made.content)
    except HostError as error:
        raise HostError(f"{shown(file)} could not be written: {error.problem}", error.hint) from error


def details(made: Import) -> list[dict[str, Any]]:
    """An entry for each student, for `--json`."""
    students = (*made.merged.roster, *made.changes.vanished)
    kinds = {student.username: made.kind_of(student) for student in students}
    return [
        {
            "username": student.username,
            "status": "unchanged" if kinds[student.username] in ("kept", "absent") else "done",
            "error": None,
            "change": kinds[student.username],
            "name": student.name,
            "email": student.email,
            "student_id": student.student_id,
            "section": student.section,
            "line": made.merged.lines.get(student.username),
        }
        for student in students
    ]


def _refuse_foreign_folder(file: Path) -> None:
    """RefusedError unless root alone can change the folders above: root without sudo writes only among root's files."""
    folder = file.parent
    if folder != Path(os.path.realpath(folder)):
        raise RefusedError(f"{shown(file)} is not written: a symbolic link is on the way", "Name the folder itself.")
    for step in (folder, *folder.parents):
        try:
            status = os.stat(step)
        except FileNotFoundError:
            raise InputError(f"{shown(step)} does not exist", "Nothing was changed.") from None
        is_open = bool(status.st_mode & 0o022) and (step == folder or not status.st_mode & stat.S_ISVTX)
        if status.st_uid != 0 or is_open:
            raise RefusedError(
                f"{shown(file)} is not written: other accounts than root can change {shown(step)}",
                "Run it with sudo as the teacher, or choose a folder that belongs to root alone.",
            )


def _understood(person: Account, source: Path, username_from: str) -> Export:
    name = printable(source.name)
    if person.uid == 0:
        # Root without sudo: only what is root's own, as with the roster.
        data = read_trusted(source, allowed_uids=frozenset({0}), max_bytes=_MOST_BYTES)
        return Export.from_json(workers.run_as(person, _understand, data, name, username_from))
    return Export.from_json(workers.run_as(person, _read_and_understand, source, name, username_from))


def _read_and_understand(source: Path, name: str, username_from: str) -> Mapping[str, Any]:
    """Runs as the teacher."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{shown(source)} is not a file", "Nothing was changed.")
            if status.st_size > _MOST_BYTES:
                raise InputError(f"{shown(source)} has more than 8 MB: is it a class list?", "Nothing was changed.")
            data = b"".join(files.chunks(descriptor, status.st_size))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(
            f"{shown(source)} cannot be read: {os.strerror(error.errno or 0).lower()}", "Nothing was changed."
        ) from None
    return _understand(data, name, username_from)


def _understand(data: bytes, name: str, username_from: str) -> Mapping[str, Any]:
    """Within bounds: a workbook is a program's data, and may have been made to be expensive."""
    try:
        with bounds.bounded(seconds=_SECONDS, memory=_MEMORY):
            found = export.read(data, name, username_from).to_json()
            if len(json.dumps(found)) > _MOST_TEXT:
                raise InputError(f"{name} holds more text than a class list has", "Nothing was changed.")
            return found
    except (bounds.TooLongError, MemoryError):
        words = f"{name} takes too much time or memory to read: is it a class list?"
        raise InputError(words, "Save it as CSV. Nothing was changed.") from None


def _bytes(students: Roster, before: bytes | None) -> bytes:
    """With the separator and the byte order mark of the roster that it replaces."""
    if before is None:
        return merging.csv_text(students).encode("utf-8")
    delimiter = roster.delimiter_of(before.decode("utf-8-sig"))
    text = merging.csv_text(students, delimiter).encode("utf-8")
    return _BOM + text if before.startswith(_BOM) else text


def _refuse_unfaithful(students: Roster, content: bytes) -> None:
    """What is written must be read as what was shown. InputError with every line that `setup` would refuse."""
    again = roster.parse(content, "the new roster", judges_extra_time=False)
    if [_cells(one) for one in again] != [_cells(one) for one in students]:
        raise InputError("the roster cannot be written so that it is read as it is", "Nothing was changed.")


def _cells(student: Student) -> tuple[object, ...]:
    filled = tuple((column, cell) for column, cell in student.extra if cell)
    return (replace(student, extra=(), line=0), frozenset(filled))


def _replace(file: Path, before: bytes | None, content: bytes) -> None:
    """Runs as the owner."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        there = None
    except OSError as error:
        raise InputError(
            f"{shown(file)} is not replaced: it is a link, or cannot be read ({os.strerror(error.errno or 0).lower()})",
            "Name the file itself with --into. Nothing was changed.",
        ) from None
    else:
        with os.fdopen(descriptor, "rb") as stream:
            there = stream.read(roster.MAX_BYTES + 1)
    if there != before:
        raise RefusedError(f"{shown(file)} changed since it was shown; nothing was changed", "Run the command again.")
    private_file.replace(file, content)
