"""What a student's server says that the student does: kernels, saves, sign-ins. For the teacher to look at only.

A time is the supervisor's own, of when the report came: a server cannot date anything back or ahead.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from nblauncher.server import activity
from nblauncher.supervisor.loop import Loop
from nblauncher.system import root_files

log = logging.getLogger(__name__)

SIGN_INS = "sign-ins.json"
"""Its name in the course's state folder: it outlives shutdowns and reboots. 0600 root."""

_SAVE_AFTER = 2.0
"""Seconds in which further sign-ins are waited for, so that a class that arrives is written a few times only."""


@dataclass
class Doings:
    """Of one student. Times are Unix seconds, 0 for never; None: the server has not reported kernels (yet)."""

    kernels: int | None = None
    busy: int | None = None
    memory: int | None = None
    """Bytes that the server says its job takes on a node; None: not known."""
    saved_at: float = 0.0
    used_at: float = 0.0
    ended: list[Callable[[int], None]] = field(default_factory=list)
    """Called once with the number of kernels that the server ended because the teacher asked for it."""

    def take(self, words: Iterable[str]) -> None:
        """What the server reported."""
        for word in words:
            if word == activity.SAVED:
                self.saved_at = self.used_at = now()
            elif word in (activity.USED, activity.SESSION):
                self.used_at = now()
            elif (found := activity.counts(word)) is not None:
                what, count, busy = found
                if what == activity.KERNELS:
                    self.kernels, self.busy = count, min(busy, count)
                else:
                    waiting, self.ended = self.ended, []
                    for call in waiting:
                        call(count)

    def has_ended(self) -> None:
        """The server is gone, and its kernels with it. When the student last did something stays."""
        self.kernels = self.busy = self.memory = None


class SignIns:
    """When each student signed in last: username → (uid, Unix seconds). `file` is replaced as a whole."""

    def __init__(self, loop: Loop, file: Path) -> None:
        self._loop, self._file = loop, file
        self._known = load(file)
        self._is_due = False

    def at(self, username: str, uid: int) -> float:
        """0 for never. A student of the same name who was removed is another one, with another uid."""
        known_uid, time = self._known.get(username, (uid, 0.0))
        return time if known_uid == uid else 0.0

    def note(self, username: str, uid: int) -> None:
        self._known[username] = (uid, now())
        self._save_soon()

    def forget(self, username: str) -> None:
        if self._known.pop(username, None) is not None:
            self._save_soon()

    def close(self) -> None:
        """Write what was not written yet."""
        if self._is_due:
            self._save()

    def _save_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.later(_SAVE_AFTER, self._save)

    def _save(self) -> None:
        if self._is_due:
            self._is_due = False
            save(self._file, self._known)


def now() -> float:
    return datetime.now(timezone.utc).timestamp()


def load(file: Path) -> dict[str, tuple[int, float]]:
    """Empty when there is no such file, or it is damaged."""
    try:
        content = json.loads(root_files.read(file) or "{}")
        return {str(name): (int(uid), float(time)) for name, (uid, time) in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is not used: %s", file, error)
        return {}


def forget(file: Path, usernames: Iterable[str]) -> None:
    """These students were removed. A supervisor that runs is told by the request `drop`."""
    known, gone = load(file), set(usernames)
    if gone & known.keys():
        save(file, {name: facts for name, facts in known.items() if name not in gone})


def save(file: Path, known: Mapping[str, tuple[int, float]]) -> None:
    """A full disk costs the record of a sign-in, nothing else."""
    try:
        root_files.replace(file, json.dumps(known))
    except OSError as error:
        log.error("cannot write %s: %s", file, error.strerror)
