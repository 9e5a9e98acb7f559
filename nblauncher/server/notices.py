"""What students are told in the browser while the class runs: the file in which the supervisor tells a server.

Each student's is in a root-owned folder, written by root and readable by that student alone. What stands in it concerns
only the student's own pages. Without Jupyter: the supervisor writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "notices"
"""In the course's runtime folder."""

LONGEST = 300
"""Characters of a message."""

LARGEST = 1 << 20
"""Bytes of the file that a server reads."""

MOST_CHANGED = 50
"""Files that a notice about changed material names."""

LONGEST_PATH = 1000

NEARLY_FULL = 0.9
"""Of limits.disk; above it students are warned, and `status` says so."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the teacher says, from `at` until `until` (Unix seconds; None: until it is cleared)."""

    name: str
    text: str
    at: int
    until: int | None = None

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until


@dataclass(frozen=True, slots=True)
class Visit:
    """The teacher opened this student's server at `at`, and is signed in until `until` (Unix seconds)."""

    name: str
    at: int
    until: int


@dataclass(frozen=True, slots=True)
class Notices:
    """All that one student is told."""

    messages: tuple[Message, ...] = ()
    deadlines: tuple[tuple[str, int], ...] = ()
    """Folder and Unix seconds of the student's own moments."""
    visits: tuple[Visit, ...] = ()
    disk: tuple[int, int] | None = None
    """Bytes that the student's files take, and how many they may; None: there is room."""
    changed: tuple[str, ...] = ()
    """Files below the home that the last delivery changed."""
    changed_at: int = 0
    ends_at: int = 0
    """When the time limit of the server's job ends it, Unix seconds, if that is soon; 0: it is not."""

    def to_bytes(self) -> bytes:
        content = {
            "messages": [[one.name, one.text, one.at, one.until] for one in self.messages],
            "deadlines": [list(one) for one in self.deadlines],
            "visits": [[one.name, one.at, one.until] for one in self.visits],
            "disk": None if self.disk is None else list(self.disk),
            "changed": list(self.changed),
            "changed_at": self.changed_at,
            "ends_at": self.ends_at,
        }
        return json.dumps(content).encode("ascii")

    @classmethod
    def parse(cls, content: bytes) -> Notices:
        """Nothing if it is damaged: the file is the student's own, who may have changed its mode."""
        try:
            return cls._parse(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()

    @classmethod
    def _parse(cls, given: Any) -> Notices:
        disk = given["disk"]
        return cls(
            tuple(
                Message(str(name), str(text)[:LONGEST], int(at), None if until is None else int(until))
                for name, text, at, until in given["messages"]
            ),
            tuple((str(folder), int(at)) for folder, at in given["deadlines"]),
            tuple(Visit(str(name), int(at), int(until)) for name, at, until in given["visits"]),
            None if disk is None else (int(disk[0]), int(disk[1])),
            tuple(map(str, given["changed"][:MOST_CHANGED])),
            int(given["changed_at"]),
            int(given.get("ends_at", 0)),
        )


def folder_of(run: Path) -> Path:
    """The folder of all students' files, below the course's runtime folder."""
    return run / FOLDER


def file_of(run: Path, uid: int) -> Path:
    return folder_of(run) / f"{uid}.json"
