"""What course.db remembers of each student's work, as values, and records that came from another host."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nblauncher.model import Deadline

IMPORTED = -1
"""Instead of a uid: the records came from another host, and the student has no account here yet."""

Moment = tuple[str, str, datetime]
"""Name of the deadline, username, time."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One student's part of a published retrieval, and the folder that it is in."""

    scope: str
    folder: str
    username: str
    uid: int
    digest: str
    """Over paths, sizes and sha256 of all stored files; equal digests are equal work."""
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """One student's work in the staging folder of a run that is not finished."""

    username: str
    uid: int
    scope: str
    digest: str
    listing: str
    """A digest of the home as it was walked; a home is deleted only if it still has it."""
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Capture:
    """One student's work at a deadline. `retrieved` is its folder in the store, '' until it is stored."""

    name: str
    username: str
    uid: int
    at: datetime
    captured: datetime
    retrieved: str = ""
    manifest: str = ""
    """The sha256 of the manifest in that folder."""
    remark: str = ""
    """What is wrong with it, for example that a file was left out that may hold work."""


@dataclass(frozen=True, slots=True)
class Brought:
    """Records of another host's course. What uid they have does not matter."""

    usernames: tuple[str, ...] = ()
    deadlines: tuple[Deadline, ...] = ()
    """Of `retrieve --at`."""
    extensions: Mapping[tuple[str, str], timedelta] = field(default_factory=dict)
    captures: tuple[Capture, ...] = ()
    failures: Mapping[Moment, str] = field(default_factory=dict)
    remarks: Mapping[Moment, tuple[str, bool]] = field(default_factory=dict)
    retrievals: tuple[Retrieval, ...] = ()


def insert(connection: sqlite3.Connection, brought: Brought) -> None:
    """See CourseLedger.take_in."""
    rows = connection.execute("SELECT username FROM students WHERE uid != ?", (IMPORTED,)).fetchall()
    here = {row["username"] for row in rows}
    new = [(name, IMPORTED) for name in brought.usernames if name not in here]
    known = {name for name, _uid in new}
    connection.executemany("INSERT OR REPLACE INTO students (username, uid) VALUES (?, ?)", new)
    connection.executemany(
        "INSERT OR REPLACE INTO deadlines VALUES (?, ?, ?)",
        [(one.name, one.folder, one.at.timestamp()) for one in brought.deadlines],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO extensions VALUES (?, ?, ?)",
        [
            (name, username, int(more.total_seconds()))
            for (name, username), more in brought.extensions.items()
            if username in known
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO captures VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (*key, IMPORTED, one.at.timestamp(), one.captured.timestamp(), one.retrieved, one.manifest, one.remark)
            for one in brought.captures
            if (key := (one.name, one.username))[1] in known
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO failed_captures VALUES (?, ?, ?, ?)",
        [(name, who, at.timestamp(), why) for (name, who, at), why in brought.failures.items() if who in known],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO remarks VALUES (?, ?, ?, ?, ?)",
        [(name, who, at.timestamp(), *said) for (name, who, at), said in brought.remarks.items() if who in known],
    )
    connection.execute("DELETE FROM retrievals WHERE uid = ?", (IMPORTED,))
    connection.executemany(
        "INSERT INTO retrievals (scope, folder, username, uid, digest, is_complete) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (one.scope, one.folder, one.username, IMPORTED, one.digest, one.is_complete)
            for one in brought.retrievals
            if one.username in known
        ],
    )
