"""history.db: which contents a student's material folder had at which snapshot.

A version of a file is there from one snapshot on, `since`, up to another, `until`, which has it no more; so a snapshot
in which nothing changed costs one row. Snapshots are numbered: a clock that is set back puts nothing out of order.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from nblauncher.ledger.database import Database
from nblauncher.scope import Stored

SCHEMA = """
CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL, uid INTEGER NOT NULL, time REAL NOT NULL,
    files INTEGER NOT NULL, bytes INTEGER NOT NULL, changed INTEGER NOT NULL, is_complete INTEGER NOT NULL
);
CREATE INDEX of_student ON snapshots (username, number);
CREATE TABLE versions (
    username TEXT NOT NULL, path BLOB NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns TEXT NOT NULL, ctime_ns TEXT NOT NULL, inode TEXT NOT NULL,
    since INTEGER NOT NULL, until INTEGER
);
CREATE INDEX of_file ON versions (username, path, since)
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One student's folder at one time. `changed`: files that are other than in the snapshot before, gone ones too."""

    number: int
    time: datetime
    files: int
    bytes: int
    changed: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A content of a file, from the first snapshot that has it to the last."""

    path: str
    sha256: str
    size: int
    first: datetime
    last: datetime
    since: int
    """Number of the first snapshot that has it."""
    until: int | None
    """Number of the first one after it that has it no more; None while it is there."""


@dataclass(frozen=True, slots=True)
class HistoryLedger:
    """Methods are single transactions; HostError when the database is damaged, newer or cannot be written."""

    file: Path

    @property
    def _database(self) -> Database:
        return Database(self.file, SCHEMA)

    def current(self, username: str, uid: int) -> dict[str, Stored]:
        """The files of the last snapshot; none for another account of the name."""
        with self._database.reading() as connection:
            last = _last(connection, username)
            if last is None or last["uid"] != uid:
                return {}
            rows = connection.execute("SELECT * FROM versions WHERE username = ? AND until IS NULL", (username,))
            return {os.fsdecode(row["path"]): _stored(row) for row in rows}

    def record(
        self,
        username: str,
        uid: int,
        time: datetime,
        files: Mapping[str, Stored],
        *,
        is_certainly_gone: Callable[[str], bool],
        is_complete: bool,
    ) -> int:
        """Add a snapshot; how many files changed. A path that is not in `files` is taken for gone only if it certainly
        is. Records of another account of the name are void.
        """
        with self._database.transaction() as connection:
            last = _last(connection, username)
            if last is not None and last["uid"] != uid:
                _forget(connection, username)
            rows = connection.execute("SELECT * FROM versions WHERE username = ? AND until IS NULL", (username,))
            known = {os.fsdecode(row["path"]): _stored(row) for row in rows}
            gone = [path for path in known if path not in files and is_certainly_gone(path)]
            new = {path: one for path, one in files.items() if known.get(path) != one}
            changed = [path for path, one in new.items() if path not in known or known[path].sha256 != one.sha256]
            values = (username, uid, time.timestamp(), len(files), sum(one.size for one in files.values()))
            number = connection.execute(
                "INSERT INTO snapshots (username, uid, time, files, bytes, changed, is_complete) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, len(changed) + len(gone), is_complete),
            ).lastrowid
            connection.executemany(
                "UPDATE versions SET until = ? WHERE username = ? AND path = ? AND until IS NULL",
                [(number, username, os.fsencode(path)) for path in (*gone, *changed)],
            )
            # Same content, other times: still the same version.
            connection.executemany(
                "UPDATE versions SET mtime_ns = ?, ctime_ns = ?, inode = ? "
                "WHERE username = ? AND path = ? AND until IS NULL",
                [(*_times(one), username, os.fsencode(path)) for path, one in new.items() if path not in set(changed)],
            )
            connection.executemany(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                [
                    (username, os.fsencode(path), new[path].sha256, new[path].size, *_times(new[path]), number)
                    for path in changed
                ],
            )
        return len(changed) + len(gone)

    def snapshots(self, username: str) -> list[Snapshot]:
        """Oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM snapshots WHERE username = ? ORDER BY number", (username,))
            return [_snapshot(row) for row in rows]

    def versions(self, username: str, path: str) -> list[Version]:
        """Of one file, oldest first."""
        with self._database.reading() as connection:
            found = [
                _snapshot(row)
                for row in connection.execute("SELECT * FROM snapshots WHERE username = ? ORDER BY number", (username,))
            ]
            rows = connection.execute(
                "SELECT * FROM versions WHERE username = ? AND path = ? ORDER BY since", (username, os.fsencode(path))
            ).fetchall()
        versions = []
        for row in rows:
            until = row["until"]
            having = [one for one in found if one.number >= row["since"] and (until is None or one.number < until)]
            if having:
                times = having[0].time, having[-1].time
                versions.append(Version(path, row["sha256"], row["size"], *times, row["since"], until))
        return versions

    def paths(self, username: str) -> dict[str, int]:
        """Every file of which there is a version, and how many there are."""
        question = "SELECT path, COUNT(*) AS count FROM versions WHERE username = ? GROUP BY path ORDER BY path"
        with self._database.reading() as connection:
            return {os.fsdecode(row["path"]): row["count"] for row in connection.execute(question, (username,))}

    def at(self, username: str, path: str, time: datetime) -> tuple[Snapshot, Version | None] | None:
        """The last snapshot that was taken by then and the file's version in it; None without such a snapshot."""
        taken = [one for one in self.snapshots(username) if one.time <= time]
        if not taken:
            return None
        last = max(taken, key=lambda one: (one.time, one.number))
        for one in self.versions(username, path):
            if one.since <= last.number and (one.until is None or last.number < one.until):
                return last, one
        return last, None

    def contents(self) -> frozenset[str]:
        """The sha256 of everything that some kept snapshot has."""
        with self._database.reading() as connection:
            return frozenset(row["sha256"] for row in connection.execute("SELECT DISTINCT sha256 FROM versions"))

    def forget_old(self, username: str, *, most: int, since: datetime) -> int:
        """Forget this student's snapshots beyond the last `most`, and those from before `since`; never the last one."""
        with self._database.transaction() as connection:
            _last_one, *earlier = connection.execute(
                "SELECT number, time FROM snapshots WHERE username = ? ORDER BY number DESC", (username,)
            ).fetchall() or [None]
            old = {row["number"] for row in earlier if row["time"] < since.timestamp()}
            old |= {row["number"] for row in earlier[max(most - 1, 0) :]}
            _forget_snapshots(connection, old)
        return len(old)

    def forget_oldest(self, count: int) -> int:
        """Forget the oldest snapshots of the whole class, never a student's last one. How many there were to forget."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT number FROM snapshots WHERE number NOT IN "
                "(SELECT MAX(number) FROM snapshots GROUP BY username) ORDER BY number LIMIT ?",
                (count,),
            ).fetchall()
            _forget_snapshots(connection, {row["number"] for row in rows})
        return len(rows)

    def forget(self, username: str) -> None:
        """The student has left the course."""
        with self._database.transaction() as connection:
            _forget(connection, username)


def _last(connection: sqlite3.Connection, username: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM snapshots WHERE username = ? ORDER BY number DESC LIMIT 1", (username,)
    ).fetchone()
    return row


def _forget(connection: sqlite3.Connection, username: str) -> None:
    for table in ("snapshots", "versions"):
        connection.execute(f"DELETE FROM {table} WHERE username = ?", (username,))  # noqa: S608


def _forget_snapshots(connection: sqlite3.Connection, numbers: set[int]) -> None:
    """And every version that no other snapshot of the student has."""
    connection.executemany("DELETE FROM snapshots WHERE number = ?", [(number,) for number in numbers])
    if numbers:
        connection.execute(
            "DELETE FROM versions WHERE until IS NOT NULL AND NOT EXISTS (SELECT 1 FROM snapshots WHERE "
            "snapshots.username = versions.username AND number >= since AND number < until)"
        )


def _stored(row: sqlite3.Row) -> Stored:
    stamp = (row["size"], int(row["mtime_ns"]), int(row["ctime_ns"]), int(row["inode"]))
    return Stored(stamp, row["sha256"])


def _times(one: Stored) -> tuple[str, str, str]:
    """As text: a student may set a time that SQLite's integers do not hold."""
    _size, mtime, ctime, inode = one.stamp
    return str(mtime), str(ctime), str(inode)


def _snapshot(row: sqlite3.Row) -> Snapshot:
    time = datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=row["time"])
    return Snapshot(row["number"], time, row["files"], row["bytes"], row["changed"], bool(row["is_complete"]))
