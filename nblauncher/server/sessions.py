"""The sessions of a student's server: every sign-in begins one, and a log-out ends it for good.

After a log-out the cookie is refused, including copies of it. The names of ended sessions are kept in a file beside
Jupyter's cookie secret, so that they survive a restart of the server; if the folder is lost, the secret is lost with it
and every cookie is invalid anyway. Runs in the student's process.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from tornado.websocket import WebSocketHandler

log = logging.getLogger(__name__)

KEPT_DAYS = 30
"""How long the browser keeps the cookie when the student says that the computer is their own."""

_MOST_ENDED = 5000
"""Far more than a student ends before their cookies are too old: Tornado takes none that was signed 31 days ago."""

_NAME = re.compile(r"[0-9a-f]{32}")
_LOGGED_OUT = 1008


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in, as the login cookie carries it."""

    name: str
    is_kept: bool
    """Whether the browser keeps it for KEPT_DAYS, or only until it is closed."""
    visit: str = ""
    """The name of the teacher's visit, which ends it; empty: the student's own session."""

    @classmethod
    def begin(cls, *, is_kept: bool, visit: str = "") -> Session:
        return cls(secrets.token_hex(16), is_kept and not visit, visit)

    @classmethod
    def parse(cls, content: Any) -> Session | None:
        """The session in a cookie's content, which was signed with our key. None if the cookie has none."""
        if not isinstance(content, dict) or not isinstance(content.get("session"), str):
            return None
        return cls(content["session"], content.get("is_kept") is True, str(content.get("visit", "")))

    def to_json(self) -> dict[str, object]:
        return {"session": self.name, "is_kept": self.is_kept, **({"visit": self.visit} if self.visit else {})}


class Sessions:
    """The sessions that ended, and the WebSockets of the others. `file` belongs to the student."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ended = dict.fromkeys(_read(file))
        self._connections: dict[str, WeakSet[WebSocketHandler]] = {}
        self._visits: dict[str, Session] = {}
        """By session, those of the teacher that have WebSockets."""

    def is_over(self, session: Session) -> bool:
        return session.name in self._ended

    def connected(self, session: Session, connection: WebSocketHandler) -> None:
        """Close this WebSocket (a kernel's or a terminal's) when the session ends."""
        self._connections.setdefault(session.name, WeakSet()).add(connection)
        if session.visit:
            self._visits[session.name] = session

    def end_visits_but(self, names: Collection[str]) -> None:
        """End the sessions of the teacher's visits that are not among these."""
        for session in [one for one in self._visits.values() if one.visit not in names]:
            del self._visits[session.name]
            self.end(session)

    def end(self, session: Session) -> None:
        """Refuse its cookie from now on, and cut off tabs that are still open from kernels and terminals."""
        self._ended = dict.fromkeys([*self._ended, session.name][-_MOST_ENDED:])
        for connection in self._connections.pop(session.name, ()):
            connection.close(_LOGGED_OUT, "logged out")
        try:
            _write(self._file, self._ended)
        except OSError as error:
            log.error("a log-out holds only until this server ends: cannot write %s: %s", self._file, error.strerror)

    def cut_off(self) -> None:
        """Close every WebSocket: no cookie of an earlier sign-in is valid any more."""
        connections, self._connections = self._connections, {}
        for connection in [one for theirs in connections.values() for one in theirs]:
            connection.close(_LOGGED_OUT, "the password was changed")


def _read(file: Path) -> list[str]:
    """The names in the file, oldest first. The student can edit it: lines that are not names are skipped."""
    try:
        return [line for line in file.read_text("ascii", errors="replace").splitlines() if _NAME.fullmatch(line)]
    except FileNotFoundError:
        return []


def _write(file: Path, ended: Iterable[str]) -> None:
    # The student's server, in the student's own folder: not a file of root's, so not `root_files.replace`.
    new = file.with_name(f"{file.name}.new")
    new.write_text("".join(f"{name}\n" for name in ended), "ascii")
    new.replace(file)
