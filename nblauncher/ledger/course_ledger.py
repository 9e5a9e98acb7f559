"""course.db: what one course has done for each of its students. Each record is for one uid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from nblauncher.ledger import course_records
from nblauncher.ledger.course_records import IMPORTED, Arrived, Brought, Capture, Retrieval
from nblauncher.ledger.database import Database
from nblauncher.model import FORGOTTEN, GONE, Deadline, HandedOut

SCHEMA = """
CREATE TABLE students (
    username TEXT PRIMARY KEY, uid INTEGER NOT NULL, has_passwords INTEGER NOT NULL DEFAULT 0,
    desired TEXT NOT NULL DEFAULT 'down'
);
CREATE TABLE handed_out (
    username TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    PRIMARY KEY (username, kind, path)
);
CREATE TABLE retrievals (
    number INTEGER PRIMARY KEY, scope TEXT NOT NULL, folder TEXT NOT NULL, username TEXT NOT NULL, uid INTEGER NOT NULL,
    digest TEXT NOT NULL, is_complete INTEGER NOT NULL
);
CREATE TABLE collected (
    run TEXT NOT NULL, username TEXT NOT NULL, uid INTEGER NOT NULL, scope TEXT NOT NULL, digest TEXT NOT NULL,
    listing TEXT NOT NULL, is_complete INTEGER NOT NULL, PRIMARY KEY (run, username)
)
"""

STEPS = (
    "ALTER TABLE handed_out ADD COLUMN base TEXT NOT NULL DEFAULT ''",
    """
    CREATE TABLE deadlines (name TEXT PRIMARY KEY, folder TEXT NOT NULL, at REAL NOT NULL);
    CREATE TABLE extensions (
        name TEXT NOT NULL, username TEXT NOT NULL, seconds INTEGER NOT NULL, PRIMARY KEY (name, username)
    );
    CREATE TABLE captures (
        name TEXT NOT NULL, username TEXT NOT NULL, uid INTEGER NOT NULL, at REAL NOT NULL, captured REAL NOT NULL,
        retrieved TEXT NOT NULL DEFAULT '', manifest TEXT NOT NULL DEFAULT '', PRIMARY KEY (name, username, at)
    )
    """,
    """
    ALTER TABLE students ADD COLUMN has_material INTEGER NOT NULL DEFAULT 0;
    UPDATE students SET has_material = 1 WHERE username IN (SELECT username FROM handed_out)
    """,
    """
    CREATE TABLE course (identity TEXT NOT NULL);
    INSERT INTO course VALUES (lower(hex(randomblob(16))));
    CREATE TABLE failed_captures (
        name TEXT NOT NULL, username TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (name, username, at)
    );
    ALTER TABLE captures ADD COLUMN remark TEXT NOT NULL DEFAULT ''
    """,
    """
    CREATE TABLE remarks (
        name TEXT NOT NULL, username TEXT NOT NULL, at REAL NOT NULL, words TEXT NOT NULL,
        is_complete INTEGER NOT NULL, PRIMARY KEY (name, username, at)
    )
    """,
)
"""`deadlines` has those of `retrieve --at`; the others are in the config."""

_OF_STUDENTS = ("students", "handed_out", "retrievals", "extensions", "captures", "failed_captures", "remarks")


@dataclass(frozen=True, slots=True)
class CourseLedger:
    """Methods are single transactions; HostError when the database is damaged, newer or cannot be written."""

    file: Path

    @property
    def _database(self) -> Database:
        return Database(self.file, SCHEMA, STEPS)

    def identity(self) -> str:
        """Identifies this course from setup to removal; another setup makes another one. Empty without a course.

        If an older nblauncher wrote the file, two calls agree only after `settle`.
        """
        if not self.file.exists():
            return ""
        with self._database.reading() as connection:
            return str(connection.execute("SELECT identity FROM course").fetchone()[0])

    def settle(self) -> None:
        """Upgrade the file to this version. HostError when there is no course."""
        with self._database.transaction(makes=False):
            pass

    def uids(self) -> dict[str, int]:
        """The uid for which each student's records were made; they are void for another uid."""
        with self._database.reading() as connection:
            return {row["username"]: row["uid"] for row in connection.execute("SELECT username, uid FROM students")}

    def with_passwords(self) -> frozenset[str]:
        """Students with passwords that were generated, hashed, written for the teacher and set."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT username FROM students WHERE has_passwords").fetchall()
        return frozenset(row["username"] for row in rows)

    def with_material(self) -> frozenset[str]:
        """Students that were given all of the material once: later files are for `send`."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT username FROM students WHERE has_material").fetchall()
        return frozenset(row["username"] for row in rows)

    def desired(self) -> dict[str, str]:
        """The wanted state of each student's server: `up`, `asleep` (started by the first visit) or `down`."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT username, desired FROM students").fetchall()
        return {row["username"]: row["desired"] for row in rows}

    def handed_out(self, username: str, kind: str) -> dict[str, HandedOut]:
        """The files of `material` or `profile` that the student was given, by path below the target folder."""
        return self.all_handed_out(kind, (username,)).get(username, {})

    def all_handed_out(self, kind: str, usernames: Iterable[str] | None = None) -> dict[str, dict[str, HandedOut]]:
        """`handed_out` of many students in one query; of all students when no names are given."""
        wanted = None if usernames is None else frozenset(usernames)
        result: dict[str, dict[str, HandedOut]] = {}
        with self._database.reading() as connection:
            if wanted is not None and len(wanted) == 1:
                rows = connection.execute(
                    "SELECT * FROM handed_out WHERE kind = ? AND username = ?", (kind, next(iter(wanted)))
                )
            else:
                rows = connection.execute("SELECT * FROM handed_out WHERE kind = ?", (kind,))
            for row in rows:
                if wanted is None or row["username"] in wanted:
                    result.setdefault(row["username"], {})[row["path"]] = HandedOut(
                        row["sha256"], row["size"], row["mtime_ns"], row["inode"], row["ctime_ns"], row["base"]
                    )
        return result

    def handed_out_paths(self, kind: str) -> frozenset[str]:
        """Every path that any student was given."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT DISTINCT path FROM handed_out WHERE kind = ?", (kind,)).fetchall()
        return frozenset(row["path"] for row in rows)

    def versions(self) -> frozenset[str]:
        """The sha256 of every version that a student was given last, or based a file on."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT sha256 FROM handed_out UNION SELECT base FROM handed_out").fetchall()
        return frozenset(row["sha256"].removeprefix(GONE) for row in rows)

    def last_retrievals(self, scope: str) -> dict[str, Retrieval]:
        """Each student's last published retrieval of the scope."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM retrievals WHERE scope = ? ORDER BY number", (scope,)).fetchall()
        return {
            row["username"]: Retrieval(
                row["scope"], row["folder"], row["username"], row["uid"], row["digest"], bool(row["is_complete"])
            )
            for row in rows
        }

    def take_in(self, brought: Brought) -> None:
        """Add records of another host. They belong to no account until `begin_students`. Repeating it changes nothing.

        A student who already has an account here keeps the records of this host.
        """
        with self._database.transaction() as connection:
            course_records.insert(connection, brought)

    def begin_students(self, uids: Mapping[str, int]) -> None:
        """Add these students. Records that were made for another uid of the name are deleted, unless they came from
        another host: those become the account's.
        """
        with self._database.transaction() as connection:
            for username, uid in uids.items():
                row = connection.execute("SELECT uid FROM students WHERE username = ?", (username,)).fetchone()
                if row is not None and row["uid"] == IMPORTED:
                    for table in ("students", "retrievals", "captures"):
                        connection.execute(f"UPDATE {table} SET uid = ? WHERE username = ?", (uid, username))  # noqa: S608
                    continue
                if row is not None and row["uid"] == uid:
                    continue
                for table in _OF_STUDENTS:
                    connection.execute(f"DELETE FROM {table} WHERE username = ?", (username,))  # noqa: S608
                connection.execute("INSERT INTO students (username, uid) VALUES (?, ?)", (username, uid))

    def set_passwords_done(self, usernames: Iterable[str]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE students SET has_passwords = 1 WHERE username = ?", [(username,) for username in usernames]
            )

    def set_material_done(self, usernames: Iterable[str]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE students SET has_material = 1 WHERE username = ?", [(username,) for username in usernames]
            )

    def set_desired(self, usernames: Iterable[str], desired: str) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE students SET desired = ? WHERE username = ?", [(desired, username) for username in usernames]
            )

    def record_handed_out(self, username: str, kind: str, files: Mapping[str, HandedOut]) -> None:
        """Record these files. For a FORGOTTEN one the record is deleted."""
        forgotten = [path for path, new in files.items() if new == FORGOTTEN]
        with self._database.transaction() as connection:
            connection.executemany(
                "DELETE FROM handed_out WHERE username = ? AND kind = ? AND path = ?",
                [(username, kind, path) for path in forgotten],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO handed_out VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (username, kind, path, new.sha256, new.size, new.mtime_ns, new.inode, new.ctime_ns, new.base)
                    for path, new in files.items()
                    if new != FORGOTTEN
                ],
            )

    def record_retrievals(self, retrievals: Iterable[Retrieval]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO retrievals (scope, folder, username, uid, digest, is_complete) VALUES (?, ?, ?, ?, ?, ?)",
                [(one.scope, one.folder, one.username, one.uid, one.digest, one.is_complete) for one in retrievals],
            )

    def record_arrived(self, run: str, arrived: Arrived) -> None:
        """Record that a student's work is in the staging folder of this run. Records of other runs are deleted."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM collected WHERE run != ?", (run,))
            connection.execute(
                "INSERT OR REPLACE INTO collected VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    run,
                    arrived.username,
                    arrived.uid,
                    arrived.scope,
                    arrived.digest,
                    arrived.listing,
                    arrived.is_complete,
                ),
            )

    def arrived(self, run: str) -> dict[str, Arrived]:
        """The work that is in the staging folder of this run, by username."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM collected WHERE run = ?", (run,)).fetchall()
        return {
            row["username"]: Arrived(
                row["username"], row["uid"], row["scope"], row["digest"], row["listing"], bool(row["is_complete"])
            )
            for row in rows
        }

    def deadlines(self) -> tuple[Deadline, ...]:
        """The deadlines of `retrieve --at`."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM deadlines ORDER BY at").fetchall()
        return tuple(Deadline(row["name"], row["folder"], _time(row["at"])) for row in rows)

    def add_deadline(self, deadline: Deadline) -> None:
        """Add a deadline. It replaces one of the same name and its extensions. HostError when there is no course."""
        with self._database.transaction(makes=False) as connection:
            values = (deadline.name, deadline.folder, deadline.at.timestamp())
            connection.execute("DELETE FROM extensions WHERE name = ?", (deadline.name,))
            connection.execute("INSERT OR REPLACE INTO deadlines VALUES (?, ?, ?)", values)

    def cancel_deadlines(self, names: Iterable[str]) -> None:
        with self._database.transaction(makes=False) as connection:
            for name in names:
                connection.execute("DELETE FROM deadlines WHERE name = ?", (name,))
                connection.execute("DELETE FROM extensions WHERE name = ?", (name,))

    def extensions(self) -> dict[tuple[str, str], timedelta]:
        """Extra time, by name of the deadline and username."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM extensions").fetchall()
        return {(row["name"], row["username"]): timedelta(seconds=row["seconds"]) for row in rows}

    def extend(self, name: str, username: str, more: timedelta) -> None:
        with self._database.transaction(makes=False) as connection:
            connection.execute(
                "INSERT INTO extensions VALUES (?, ?, ?) ON CONFLICT (name, username) "
                "DO UPDATE SET seconds = seconds + excluded.seconds",
                (name, username, int(more.total_seconds())),
            )

    def captures(self) -> tuple[Capture, ...]:
        """Oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM captures ORDER BY captured").fetchall()
        return tuple(
            Capture(
                row["name"],
                row["username"],
                row["uid"],
                _time(row["at"]),
                _time(row["captured"]),
                row["retrieved"],
                row["manifest"],
                row["remark"],
            )
            for row in rows
        )

    def failed_captures(self) -> dict[tuple[str, str, datetime], str]:
        """Why a student's work was not captured, by name of the deadline, username and time."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM failed_captures").fetchall()
        return {(row["name"], row["username"], _time(row["at"])): row["reason"] for row in rows}

    def record_failed_captures(self, failures: Mapping[tuple[str, str, datetime], str]) -> None:
        with self._database.transaction(makes=False) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO failed_captures VALUES (?, ?, ?, ?)",
                [(name, username, at.timestamp(), reason) for (name, username, at), reason in failures.items()],
            )

    def record_captures(self, captures: Iterable[Capture]) -> None:
        with self._database.transaction(makes=False) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO captures VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        one.name,
                        one.username,
                        one.uid,
                        one.at.timestamp(),
                        one.captured.timestamp(),
                        one.retrieved,
                        one.manifest,
                        one.remark,
                    )
                    for one in captures
                ],
            )

    def remarks(self) -> dict[tuple[str, str, datetime], tuple[str, bool]]:
        """A remark about captured work, and whether the work is complete, by deadline, username and time."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM remarks").fetchall()
        return {
            (row["name"], row["username"], _time(row["at"])): (row["words"], bool(row["is_complete"])) for row in rows
        }

    def record_remarks(self, remarks: Mapping[tuple[str, str, datetime], tuple[str, bool]]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO remarks VALUES (?, ?, ?, ?, ?)",
                [
                    (name, username, at.timestamp(), words, is_complete)
                    for (name, username, at), (words, is_complete) in remarks.items()
                ],
            )

    def forget_handed_out(self, username: str) -> None:
        """The home is being emptied: if the student stays after all, all files are handed out again."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM handed_out WHERE username = ?", (username,))

    def forget(self, *usernames: str) -> None:
        """Forget students who left the course."""
        with self._database.transaction() as connection:
            for table in (*_OF_STUDENTS, "collected"):
                connection.executemany(f"DELETE FROM {table} WHERE username = ?", zip(usernames))  # noqa: S608


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=seconds)
