"""history.db: the contents of a student's material folder at each snapshot.

A version of a file is in the snapshots from `since` on, up to but not including `until`; so a snapshot in which nothing
changed takes one row. Snapshots are numbered, so their order does not depend on a clock that may be set back.
"""

from __future__ import annotations

import os
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from nblauncher.ledger.database import Database
from nblauncher.model import Stored
from nblauncher.system.storage_share import content_bytes, entry_bytes

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

STEPS = (
    # 2: contents that do not count, and how much each student's versions count.
    """
    CREATE TABLE handed_out (sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL);
    CREATE INDEX of_content ON versions (sha256);
    CREATE TABLE usage (username TEXT PRIMARY KEY, used INTEGER NOT NULL, needed INTEGER NOT NULL)
    """,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One student's folder at one time. `changed`: files that differ from the snapshot before, deleted ones too."""

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
    """Number of the first snapshot after that without it; None while the file has this content."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much one student's stored versions count, as in `storage_share`."""

    used: int = 0
    needed: int = 0
    """How much they would count with the old snapshots that were dropped for space; 0 when none were."""


@dataclass(frozen=True, slots=True)
class HistoryLedger:
    """Methods are single transactions; HostError when the database is damaged, newer or cannot be written."""

    file: Path

    @property
    def _database(self) -> Database:
        return Database(self.file, SCHEMA, STEPS)

    def current(self, username: str, uid: int) -> dict[str, Stored]:
        """The files of the last snapshot; none if that was of another account of the name."""
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
        """Add a snapshot. Returns how many files changed. A path that is not in `files` counts as deleted only if it
        certainly is. Records of another account of the name are deleted.
        """
        with self._database.transaction() as connection:
            last = _last(connection, username)
            if last is not None and last["uid"] != uid:
                _forget(connection, username)
            rows = connection.execute("SELECT * FROM versions WHERE username = ? AND until IS NULL", (username,))
            known = {os.fsdecode(row["path"]): _stored(row) for row in rows}
            gone = [path for path in known if path not in files and is_certainly_gone(path)]
            new = {path: stored for path, stored in files.items() if known.get(path) != stored}
            changed = [path for path in new if path not in known or known[path].sha256 != new[path].sha256]
            values = (username, uid, time.timestamp(), len(files), sum(stored.size for stored in files.values()))
            number = connection.execute(
                "INSERT INTO snapshots (username, uid, time, files, bytes, changed, is_complete) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, len(changed) + len(gone), is_complete),
            ).lastrowid
            connection.executemany(
                "UPDATE versions SET until = ? WHERE username = ? AND path = ? AND until IS NULL",
                [(number, username, os.fsencode(path)) for path in (*gone, *changed)],
            )
            # Other times but the same content: the same version.
            connection.executemany(
                "UPDATE versions SET mtime_ns = ?, ctime_ns = ?, inode = ? "
                "WHERE username = ? AND path = ? AND until IS NULL",
                [(*_times(new[path]), username, os.fsencode(path)) for path in new if path not in set(changed)],
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
        """The student's snapshots, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM snapshots WHERE username = ? ORDER BY number", (username,))
            return [_snapshot(row) for row in rows]

    def versions(self, username: str, path: str) -> list[Version]:
        """The versions of one file, oldest first."""
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
            having = [shot for shot in found if shot.number >= row["since"] and (until is None or shot.number < until)]
            if having:
                times = having[0].time, having[-1].time
                versions.append(Version(path, row["sha256"], row["size"], *times, row["since"], until))
        return versions

    def paths(self, username: str) -> dict[str, int]:
        """Every file with versions, and how many it has."""
        question = "SELECT path, COUNT(*) AS count FROM versions WHERE username = ? GROUP BY path ORDER BY path"
        with self._database.reading() as connection:
            return {os.fsdecode(row["path"]): row["count"] for row in connection.execute(question, (username,))}

    def at(self, username: str, path: str, time: datetime) -> tuple[Snapshot, Version | None] | None:
        """The last snapshot up to this time, and the file's version in it; None without such a snapshot."""
        taken = [shot for shot in self.snapshots(username) if shot.time <= time]
        if not taken:
            return None
        last = max(taken, key=lambda shot: (shot.time, shot.number))
        for version in self.versions(username, path):
            if version.since <= last.number and (version.until is None or last.number < version.until):
                return last, version
        return last, None

    def contents(self) -> frozenset[str]:
        """The sha256 of every content in any snapshot."""
        with self._database.reading() as connection:
            return frozenset(row["sha256"] for row in connection.execute("SELECT DISTINCT sha256 FROM versions"))

    def forget_old(self, username: str, *, most: int, since: datetime) -> frozenset[str]:
        """Forget this student's snapshots beyond the last `most`, and those from before `since`; never the last one.

        If it forgets any, the share counts as large enough. Returns the contents that no student has any more.
        """
        with self._database.transaction() as connection:
            _newest, *earlier = connection.execute(
                "SELECT number, time FROM snapshots WHERE username = ? ORDER BY number DESC", (username,)
            ).fetchall() or [None]
            old = {row["number"] for row in earlier if row["time"] < since.timestamp()}
            old |= {row["number"] for row in earlier[max(most - 1, 0) :]}
            if old:
                connection.execute("UPDATE usage SET needed = 0 WHERE username = ?", (username,))
            return _unused(connection, _forget_snapshots(connection, username, old))

    def fit(self, username: str, share: int, *, refused: int = 0) -> tuple[Usage, frozenset[str]]:
        """Forget this student's oldest snapshots, never the last one, until the rest fits into the share.

        `refused`: bytes that the last snapshot had to leave out. Also returns the contents that no student has any
        more.
        """
        with self._database.transaction() as connection:
            numbers, costs = _costs(connection, username)
            total, used, kept = sum(costs.values()), 0, len(numbers)
            for index in reversed(range(len(numbers))):
                used += costs[numbers[index]]
                if used > share and index < len(numbers) - 1:
                    used -= costs[numbers[index]]
                    break
                kept = index
            gone = _forget_snapshots(connection, username, set(numbers[:kept]))
            row = connection.execute("SELECT needed FROM usage WHERE username = ?", (username,)).fetchone()
            needed = total + refused if total + refused > share else row["needed"] if row else 0
            connection.execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", (username, used, needed))
            return Usage(used, needed), _unused(connection, gone)

    def usage(self) -> dict[str, Usage]:
        """The usage of every student with a snapshot."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM usage")
            return {row["username"]: Usage(row["used"], row["needed"]) for row in rows}

    def last_times(self) -> dict[str, float]:
        """When each student's last snapshot was taken."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT username, time, MAX(number) FROM snapshots GROUP BY username")
            return {row["username"]: row["time"] for row in rows}

    def free(self, handed_out: Mapping[str, int]) -> dict[str, int]:
        """The contents that do not count, with their sizes: those handed out now, or when they were stored."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM handed_out WHERE sha256 NOT IN (SELECT sha256 FROM versions)")
            connection.executemany("INSERT OR REPLACE INTO handed_out VALUES (?, ?)", handed_out.items())
            return {row["sha256"]: row["size"] for row in connection.execute("SELECT * FROM handed_out")}

    def forget(self, *usernames: str) -> None:
        """These students have left the course."""
        with self._database.transaction() as connection:
            for username in usernames:
                _forget(connection, username)


def _last(connection: sqlite3.Connection, username: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM snapshots WHERE username = ? ORDER BY number DESC LIMIT 1", (username,)
    ).fetchone()
    return row


def _forget(connection: sqlite3.Connection, username: str) -> None:
    for table in ("snapshots", "versions", "usage"):
        connection.execute(f"DELETE FROM {table} WHERE username = ?", (username,))  # noqa: S608


def _forget_snapshots(connection: sqlite3.Connection, username: str, numbers: set[int]) -> set[str]:
    """Forget snapshots, and versions that no other snapshot of the student has. Returns the contents of those."""
    if not numbers:
        return set()
    connection.executemany("DELETE FROM snapshots WHERE number = ?", [(number,) for number in numbers])
    unseen = (
        "FROM versions WHERE username = ? AND until IS NOT NULL AND NOT EXISTS (SELECT 1 FROM snapshots WHERE "
        "snapshots.username = versions.username AND number >= since AND number < until)"
    )
    contents = {row["sha256"] for row in connection.execute(f"SELECT sha256 {unseen}", (username,))}
    connection.execute(f"DELETE {unseen}", (username,))
    return contents


def _unused(connection: sqlite3.Connection, contents: Iterable[str]) -> frozenset[str]:
    question = "SELECT 1 FROM versions WHERE sha256 = ? LIMIT 1"
    return frozenset(sha256 for sha256 in contents if connection.execute(question, (sha256,)).fetchone() is None)


def _costs(connection: sqlite3.Connection, username: str) -> tuple[list[int], dict[int, int]]:
    """The student's snapshots, oldest first, and the bytes of what is in each but in no later one."""
    rows = connection.execute("SELECT number FROM snapshots WHERE username = ? ORDER BY number", (username,))
    numbers = [row["number"] for row in rows]
    costs = dict.fromkeys(numbers, 0)
    last_with: dict[str, tuple[int, int]] = {}
    if numbers:
        for row in connection.execute(
            "SELECT path, sha256, size, until, sha256 IN (SELECT sha256 FROM handed_out) AS is_free "
            "FROM versions WHERE username = ?",
            (username,),
        ):
            before = len(numbers) if row["until"] is None else bisect_left(numbers, row["until"])
            last = numbers[max(before - 1, 0)]
            costs[last] += entry_bytes(row["path"])
            if not row["is_free"] and last_with.get(row["sha256"], (-1, 0))[0] < last:
                last_with[row["sha256"]] = last, content_bytes(row["size"])
    for last, size in last_with.values():
        costs[last] += size
    return numbers, costs


def _stored(row: sqlite3.Row) -> Stored:
    stamp = (row["size"], int(row["mtime_ns"]), int(row["ctime_ns"]), int(row["inode"]))
    return Stored(stamp, row["sha256"])


def _times(stored: Stored) -> tuple[str, str, str]:
    """As text: a student may set a time that does not fit into SQLite's integers."""
    _size, mtime, ctime, inode = stored.stamp
    return str(mtime), str(ctime), str(inode)


def _snapshot(row: sqlite3.Row) -> Snapshot:
    time = datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=row["time"])
    return Snapshot(row["number"], time, row["files"], row["bytes"], row["changed"], bool(row["is_complete"]))
