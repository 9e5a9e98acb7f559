"""The teacher's credentials file: output, never input to anything that root does.

Written by a child that is the teacher. Opening the file in a spreadsheet or on a terminal runs nothing (`printable`).
"""

from __future__ import annotations

import csv
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher import workers
from nblauncher.errors import HostError
from nblauncher.model import Account, Secret
from nblauncher.printable import spreadsheet_cell

COLUMNS = ("username", "name", "email", "url", "notebook_password", "system_password")

_SPLITS = re.compile(r"""[,;|"\s]""")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One row. `url` is the front page's address for the student; a missing system password says why in words."""

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
    """Add or replace these students' rows, drop those of `gone`, and have it all on disk when this returns.

    Runs as the owner; the file is 0600 and replaced atomically. HostError when it cannot be written, or when what is
    there is not a credentials file.
    """
    cells = {row.username: row.cells() for row in rows}
    try:
        workers.run_as(owner, _rewrite, file, cells, frozenset(gone))
    except HostError as error:
        raise HostError(f"the credentials file {file} could not be written: {error.problem}", error.hint) from error


def objection(owner: Account, file: Path) -> str:
    """Why `write` would fail; empty when all is well. Looks only, as the owner."""
    return str(workers.run_as(owner, _why_not, file))


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


def _rewrite(file: Path, new: Mapping[str, Mapping[str, str]], gone: frozenset[str]) -> None:
    """As the owner."""
    rows = {row["username"]: row for row in _read(file) if row["username"] not in gone}
    rows.update({username: dict(cells) for username, cells in new.items()})
    lines = [COLUMNS, *(tuple(row[column] for column in COLUMNS) for row in rows.values())]
    _replace(file, "".join(map(_line, lines)).encode("utf-8", "surrogateescape"))


def _line(cells: Iterable[str]) -> str:
    """Rows that an earlier nblauncher wrote become harmless, too. Quoted is what any spreadsheet might split."""
    harmless = map(spreadsheet_cell, cells)
    quoted = (_quoted(one) if _SPLITS.search(one) else one for one in harmless)
    return ",".join(quoted) + "\r\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def _read(file: Path) -> list[dict[str, str]]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise HostError("the file that is there is not one of ours", "Move it away and run the command again.")
            return [{column: row.get(column) or "" for column in COLUMNS} for row in reader]
        except csv.Error as error:
            raise HostError(
                f"the file that is there cannot be read ({error})", "Move it away and run again."
            ) from error


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, file)
    except OSError:
        os.unlink(temporary)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
