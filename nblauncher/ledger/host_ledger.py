"""host.db: every account we made or recorded, its courses, the uids we ever used, and every port."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.ledger.database import Database
from nblauncher.model import Account

SCHEMA = """
CREATE TABLE courses (
    course TEXT PRIMARY KEY, owner TEXT NOT NULL, owner_uid INTEGER NOT NULL, config TEXT NOT NULL,
    front_port INTEGER NOT NULL, group_made INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE accounts (
    username TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE, gid INTEGER NOT NULL, home TEXT NOT NULL,
    shell TEXT NOT NULL, nonce TEXT NOT NULL, is_guest INTEGER NOT NULL, stage TEXT NOT NULL,
    has_password INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE memberships (
    course TEXT NOT NULL, username TEXT NOT NULL, PRIMARY KEY (course, username)
);
CREATE TABLE ports (
    port INTEGER PRIMARY KEY, course TEXT NOT NULL, username TEXT NOT NULL, UNIQUE (course, username)
);
CREATE TABLE spent_uids (uid INTEGER PRIMARY KEY);
CREATE TABLE spent_ports (course TEXT NOT NULL, port INTEGER NOT NULL, PRIMARY KEY (course, port))
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """An account as we recorded it. `stage`: intended (perhaps half made), made, removing, emptying."""

    account: Account
    is_guest: bool
    stage: str
    has_password: bool = False
    """Whether a system password was set and given to the teacher."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A student of a course, with a port that no other student ever gets."""

    username: str
    port: int


@dataclass(frozen=True, slots=True)
class CourseRecord:
    """A course of this host, and its owner."""

    course: str
    owner: str
    owner_uid: int
    config: str
    front_port: int
    group_made: bool
    """Whether we made the course's group, and so may remove it."""


@dataclass(frozen=True, slots=True)
class HostLedger:
    """Methods are single transactions; HostError when the database is damaged, newer or cannot be written."""

    file: Path

    @property
    def _database(self) -> Database:
        return Database(self.file, SCHEMA)

    # Reading.

    def courses(self) -> tuple[CourseRecord, ...]:
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM courses ORDER BY course").fetchall()
        return tuple(
            CourseRecord(
                row["course"], row["owner"], row["owner_uid"], row["config"], row["front_port"], bool(row["group_made"])
            )
            for row in rows
        )

    def course(self, course: str) -> CourseRecord | None:
        return next((record for record in self.courses() if record.course == course), None)

    def claims(self) -> dict[str, Claim]:
        """Every account that we made or recorded, of all courses, by username."""
        with self._database.reading() as connection:
            return {row["username"]: _claim(row) for row in connection.execute("SELECT * FROM accounts")}

    def claim(self, username: str) -> Claim | None:
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM accounts WHERE username = ?", (username,)).fetchone()
        return None if row is None else _claim(row)

    def members(self, course: str) -> dict[str, Membership]:
        """The course's students in the order in which they joined."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT m.username, p.port FROM memberships m JOIN ports p USING (course, username) "
                "WHERE course = ? ORDER BY m.rowid",
                (course,),
            ).fetchall()
        return {row["username"]: Membership(row["username"], row["port"]) for row in rows}

    def courses_of(self, username: str) -> tuple[str, ...]:
        with self._database.reading() as connection:
            rows = connection.execute("SELECT course FROM memberships WHERE username = ? ORDER BY course", (username,))
            return tuple(row["course"] for row in rows)

    def ports(self) -> dict[int, tuple[str, str]]:
        """Every assigned port: port → (course, username)."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM ports").fetchall()
        return {row["port"]: (row["course"], row["username"]) for row in rows}

    def members_elsewhere(self, course: str) -> frozenset[str]:
        """Students that are also in another course."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT username FROM memberships WHERE course != ?", (course,)).fetchall()
        return frozenset(row["username"] for row in rows)

    def spent_uids(self) -> frozenset[int]:
        """Uids that we have ever assigned; none is assigned again."""
        with self._database.reading() as connection:
            return frozenset(row["uid"] for row in connection.execute("SELECT uid FROM spent_uids"))

    def spent_ports(self, course: str) -> frozenset[int]:
        """Ports that students of the course have or had; no other student of the course gets one of them."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT port FROM spent_ports WHERE course = ?", (course,)).fetchall()
        return frozenset(row["port"] for row in rows)

    # Recording intentions and what is done.

    def record_course(self, record: CourseRecord) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO courses VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (course) DO UPDATE SET "
                "owner = excluded.owner, owner_uid = excluded.owner_uid, config = excluded.config, "
                "front_port = excluded.front_port, group_made = max(group_made, excluded.group_made)",
                (
                    record.course,
                    record.owner,
                    record.owner_uid,
                    record.config,
                    record.front_port,
                    int(record.group_made),
                ),
            )

    def claim_accounts(self, accounts: Iterable[Account], *, is_guest: bool) -> None:
        """Record the intention to make (or, for guests, to serve) these accounts. Their uids are spent for ever.

        Replaces a claim of the same name: the account was deleted by hand, or is made again after a crash.
        """
        stage = "made" if is_guest else "intended"
        with self._database.transaction() as connection:
            for account in accounts:
                row = connection.execute("SELECT username FROM accounts WHERE uid = ?", (account.uid,)).fetchone()
                if row is not None and row["username"] != account.username:
                    raise HostError(f"uid {account.uid} of {account.username} is already recorded for {row[0]}")
                connection.execute(
                    "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                    (
                        account.username,
                        account.uid,
                        account.gid,
                        str(account.home),
                        account.shell,
                        account.nonce,
                        int(is_guest),
                        stage,
                    ),
                )
                if not is_guest:
                    connection.execute("INSERT OR IGNORE INTO spent_uids VALUES (?)", (account.uid,))

    def made_account(self, account: Account) -> None:
        """Record that the account is complete (again), with the gid that the host gave it."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE accounts SET stage = 'made', gid = ? WHERE username = ? AND uid = ?",
                (account.gid, account.username, account.uid),
            )

    def begin_emptying(self, username: str) -> None:
        """Record that the home was retrieved and verified and may be empty or gone from now on."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE accounts SET stage = 'emptying' WHERE username = ?", (username,))

    def passwords_set(self, usernames: Iterable[str]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE accounts SET has_password = 1 WHERE username = ?", [(username,) for username in usernames]
            )

    def passwords_disabled(self, usernames: Iterable[str]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE accounts SET has_password = 0 WHERE username = ?", [(username,) for username in usernames]
            )

    def begin_removal(self, username: str) -> None:
        """Record that a removal begins: the account may be locked from now on."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE accounts SET stage = 'removing' WHERE username = ? AND stage != 'emptying'", (username,)
            )

    def join(self, course: str, ports: Mapping[str, int]) -> None:
        """Make these students members of the course, each with this port, unless the student has one already."""
        with self._database.transaction() as connection:
            for username, port in ports.items():
                connection.execute("INSERT OR IGNORE INTO memberships VALUES (?, ?)", (course, username))
                connection.execute(
                    "INSERT INTO ports VALUES (?, ?, ?) ON CONFLICT (course, username) DO NOTHING",
                    (port, course, username),
                )
                connection.execute(
                    "INSERT OR IGNORE INTO spent_ports "
                    "SELECT course, port FROM ports WHERE course = ? AND username = ?",
                    (course, username),
                )

    def leave(self, course: str, *usernames: str) -> None:
        """Remove students from the course. An account without a course is forgotten, but its uid stays spent."""
        both = [(course, username) for username in usernames]
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM memberships WHERE course = ? AND username = ?", both)
            connection.executemany("DELETE FROM ports WHERE course = ? AND username = ?", both)
            connection.executemany(
                "DELETE FROM accounts WHERE username = ? AND username NOT IN (SELECT username FROM memberships)",
                [(username,) for username in usernames],
            )

    def forget_course(self, course: str) -> None:
        """Forget the course and its ports, after its last student."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM courses WHERE course = ?", (course,))
            connection.execute("DELETE FROM ports WHERE course = ?", (course,))
            connection.execute("DELETE FROM spent_ports WHERE course = ?", (course,))


def _claim(row: sqlite3.Row) -> Claim:
    account = Account(row["username"], row["uid"], row["gid"], Path(row["home"]), row["shell"], row["nonce"])
    return Claim(account, bool(row["is_guest"]), row["stage"], bool(row["has_password"]))
