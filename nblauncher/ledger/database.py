"""A SQLite file that is open only during a transaction, so that it is never open across a fork."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError, RefusedError


@dataclass(frozen=True, slots=True)
class Database:
    """One file, 0600 root, with a schema and its version. `file` may be missing until the first write."""

    file: Path
    schema: str
    """The schema of the first version."""
    steps: tuple[str, ...] = ()
    """Statements that upgrade each version to the next."""

    @property
    def version(self) -> int:
        return 1 + len(self.steps)

    @contextmanager
    def transaction(self, *, makes: bool = True) -> Iterator[sqlite3.Connection]:
        """A write transaction; it commits when the block ends and rolls back when the block raises.

        HostError when the file is damaged, was written by a newer nblauncher, or cannot be written; and, unless it
        `makes` the file, when there is none: late work for a removed course must not bring its ledger back.
        """
        if makes:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        elif not self._is_there():
            raise HostError(f"there is no ledger {self.file}", "The course was removed, or never set up.")
        with self._opened(self.file.as_posix()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._bring_up(connection)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read transaction; an empty database when the file does not exist. HostError as for `transaction`.

        Not opened read-only: after a kill in the middle of a write, the next reader rolls that write back
        (https://www.sqlite.org/lockingv3.html, "hot journals").
        """
        is_there = self._is_there()
        with self._opened(f"file:{self.file}?mode=rw" if is_there else ":memory:") as connection:
            if self._version_of(connection) < self.version:
                with self._opened(":memory:") as copy:  # reading changes nothing, not even an old file's schema
                    connection.backup(copy)
                    connection.close()
                    self._bring_up(copy)
                    yield copy
            else:
                connection.execute("PRAGMA query_only = 1")
                connection.execute("BEGIN")
                yield connection

    def _is_there(self) -> bool:
        try:
            self.file.stat()
        except FileNotFoundError:
            return False
        except PermissionError:
            raise RefusedError("this must run as root", "Run it with sudo.") from None
        return True

    @contextmanager
    def _opened(self, name: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(name, timeout=10, isolation_level=None, uri=name.startswith("file:"))
            try:
                connection.row_factory = sqlite3.Row
                self._check_version(connection)
                yield connection
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise HostError(
                f"the ledger {self.file} cannot be used: {error}",
                "Nothing was changed after this point. If the disk is full, free some space; "
                "if the file is damaged, restore it from a backup before you go on.",
            ) from error

    def _check_version(self, connection: sqlite3.Connection) -> None:
        found = self._version_of(connection)
        if found > self.version:
            raise HostError(
                f"the ledger {self.file} was written by a newer nblauncher (version {found}, this one knows "
                f"{self.version})",
                "Install that nblauncher again; nothing was changed.",
            )

    def _version_of(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def _bring_up(self, connection: sqlite3.Connection) -> None:
        found = self._version_of(connection)
        for script in (self.schema, *self.steps)[found:]:
            for statement in script.split(";"):
                if statement.strip():
                    connection.execute(statement)
        if found < self.version:
            connection.execute(f"PRAGMA user_version = {self.version}")
