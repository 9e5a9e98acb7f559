"""The teacher's credentials file. It is output: root acts on nothing that is in it.

A child that is the teacher writes it. Its cells are harmless in a spreadsheet and on a terminal (`printable`).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.model import Account, Secret
from nblauncher.printable import spreadsheet_cell, spreadsheet_line
from nblauncher.system import private_file, workers

COLUMNS = ("username", "name", "email", "url", "notebook_password", "system_password")
PASSWORDS = ("notebook_password", "system_password")
_ABOUT = ("name", "email", "url")
AS_BEFORE = Secret("(as before)")
"""Instead of a system password that the account had already."""

_UNTIL_THEN = " (being changed; until then: "
_OR = " or "
_MOST_OLD = 3
"""Passwords of interrupted changes that a cell keeps."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One row. `url` is the student's address of the front page; instead of a missing password there is the reason."""

    username: str
    name: str
    email: str
    url: str
    notebook_password: Secret
    system_password: Secret

    def cells(self) -> dict[str, str]:
        texts = (
            self.username,
            self.name,
            self.email,
            self.url,
            self.notebook_password.reveal(),
            self.system_password.reveal(),
        )
        return dict(zip(COLUMNS, map(spreadsheet_cell, texts), strict=True))


def write(owner: Account, file: Path, rows: Iterable[Credentials], *, gone: Iterable[str] = ()) -> None:
    """Add or replace these students' rows, drop those of `gone`, all on disk when this returns.

    Runs as the owner; the file is 0600 and replaced atomically. HostError when it cannot be written, or the
    existing file is not a credentials file.
    """
    cells = {row.username: row.cells() for row in rows}
    _as_owner(owner, file, _rewrite, file, cells, frozenset(gone), False)


def begin_change(owner: Account, file: Path, rows: Iterable[Credentials]) -> None:
    """Write new passwords beside the old ones, as `NEW (being changed; until then: OLD)`: whenever the change stops,
    the file has the password that works. A password AS_BEFORE leaves its cell alone. Runs and fails as `write`.
    """
    cells = {row.username: row.cells() for row in rows}
    _as_owner(owner, file, _rewrite, file, cells, frozenset[str](), True)


def end_change(owner: Account, file: Path, usernames: Iterable[str]) -> None:
    """Only the new passwords of these students are left. Runs and fails as `write`."""
    _as_owner(owner, file, _drop_old, file, frozenset(usernames))


def passwords_in(owner: Account, file: Path) -> dict[str, dict[str, str]]:
    """username → the cells of PASSWORDS, read by the owner. For the owner's eyes, and for trying them: text that
    others may have written.
    """
    found = _as_owner(owner, file, _passwords, file)
    return {str(name): {str(key): str(text) for key, text in cells.items()} for name, cells in found.items()}


def write_system_passwords(owner: Account, file: Path, rows: Iterable[Credentials]) -> None:
    """As `write`, but the notebook password that the file has for a student stays."""
    cells = {row.username: row.cells() for row in rows}
    _as_owner(owner, file, _rewrite_system, file, cells)


def outdated(owner: Account, file: Path, rows: Iterable[Credentials]) -> frozenset[str]:
    """Those students whose rows have another name, e-mail address or url. Looks only, as the owner. HostError."""
    cells = {row.username: row.cells() for row in rows}
    return frozenset(map(str, _as_owner(owner, file, _outdated, file, cells)))


def correct(owner: Account, file: Path, rows: Iterable[Credentials]) -> None:
    """As `write` for rows that are there, but their passwords stay."""
    cells = {row.username: row.cells() for row in rows}
    _as_owner(owner, file, _correct, file, cells)


def objection(owner: Account, file: Path) -> str:
    """Why `write` would fail; empty if it would not. Looks only, as the owner."""
    return str(workers.run_as(owner, _why_not, file))


def read(file: Path) -> dict[str, dict[str, str]]:
    """The rows by username, for a process that is the owner; empty without a file. HostError if it cannot be read.

    For the owner's own eyes: nothing in it may decide what root does (docs/decisions/credentials-first.md).
    """
    try:
        return {row["username"]: row for row in _read(file)}
    except HostError as error:
        raise HostError(f"the credentials file {file} cannot be read: {error.problem}", error.hint) from error
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise HostError(f"the credentials file {file} cannot be read: {why}") from error


def _as_owner(owner: Account, file: Path, function: Callable[..., Any], *arguments: object) -> Any:
    try:
        return workers.run_as(owner, function, *arguments)
    except HostError as error:
        raise HostError(f"the credentials file {file} could not be used: {error.problem}", error.hint) from error


def _why_not(file: Path) -> str:
    if not file.parent.is_dir():
        return f"{file.parent} is not a folder"
    if not os.access(file.parent, os.W_OK | os.X_OK):
        return f"its owner may not write in {file.parent}"
    try:
        _read(file)
    except OSError as error:
        return (error.strerror or "").lower()
    except HostError as error:
        return error.problem
    return ""


def _rewrite(file: Path, new: Mapping[str, Mapping[str, str]], gone: frozenset[str], keeps_old: bool) -> None:
    """As the owner."""
    rows = {row["username"]: row for row in _read(file) if row["username"] not in gone}
    for username, cells in new.items():
        rows[username] = _beside(rows[username], cells) if keeps_old and username in rows else dict(cells)
    _write(file, rows.values())


def _beside(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The old row with the new passwords."""
    cells = dict(old)
    for column in PASSWORDS:
        if new[column] != AS_BEFORE.reveal():
            kept = [text for text in _known(old[column]) if text]
            cells[column] = f"{new[column]}{_UNTIL_THEN}{_OR.join(kept[:_MOST_OLD])})" if kept else new[column]
    return cells


def _known(cell: str) -> list[str]:
    """The passwords of a cell, the newest first."""
    newest, _, older = cell.partition(_UNTIL_THEN)
    return [newest, *older.removesuffix(")").split(_OR)]


def _drop_old(file: Path, usernames: frozenset[str]) -> None:
    rows = _read(file)
    for row in rows:
        if row["username"] in usernames:
            row.update({column: _known(row[column])[0] for column in PASSWORDS})
    _write(file, rows)


def _passwords(file: Path) -> dict[str, dict[str, str]]:
    return {row["username"]: {column: row[column] for column in PASSWORDS} for row in _read(file)}


def _write(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    lines = [COLUMNS, *(tuple(row[column] for column in COLUMNS) for row in rows)]
    # Cells that an older nblauncher wrote become harmless too.
    text = "".join(spreadsheet_line(map(spreadsheet_cell, cells)) for cells in lines)
    private_file.replace(file, text.encode("utf-8", "surrogateescape"))


def _rewrite_system(file: Path, new: Mapping[str, Mapping[str, str]]) -> None:
    """As the owner."""
    notebook = {row["username"]: row["notebook_password"] for row in _read(file)}
    kept = {
        name: {**cells, "notebook_password": notebook.get(name, cells["notebook_password"])}
        for name, cells in new.items()
    }
    _rewrite(file, kept, frozenset(), False)


def _outdated(file: Path, now: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [
        name
        for row in _read(file)
        if (name := row["username"]) in now and any(row[column] != now[name][column] for column in _ABOUT)
    ]


def _correct(file: Path, now: Mapping[str, Mapping[str, str]]) -> None:
    """As the owner."""
    rows = _read(file)
    for row in rows:
        if cells := now.get(row["username"]):
            row.update({column: cells[column] for column in _ABOUT})
    _write(file, rows)


def _read(file: Path) -> list[dict[str, str]]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise HostError("the existing file is not one of ours", "Move it away and run the command again.")
            return [{column: row.get(column) or "" for column in COLUMNS} for row in reader]
        except csv.Error as error:
            raise HostError(
                f"the existing file cannot be read ({error})", "Move it away and run the command again."
            ) from error
