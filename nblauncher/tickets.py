"""Tickets: how a student who signed in at the front page arrives at their own server already signed in.

The front page keeps the book; a student's notebook server presents a ticket over `tickets.sock` (DESIGN section 5).
Only the standard library is imported here: the notebook server, a student's process, uses `redeem`.

The conversation, once per connection: the server sends the ticket and a newline, the front page answers one line of
JSON, `{"ok": true}` or `{"ok": false}`, and closes.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIFETIME = 30.0
"""Seconds from sign-in until the browser must have arrived."""

MAX_LINE = 64
"""Bytes of a request on tickets.sock, newline included."""

_BYTES = 16
_TEXT = re.compile(r"[A-Za-z0-9_-]{22}")


def is_well_formed(ticket: str) -> bool:
    """Whether the text could be a ticket at all: 128 bits as unpadded URL-safe base64."""
    return _TEXT.fullmatch(ticket) is not None


@dataclass(frozen=True, slots=True)
class _Entry:
    username: str
    expires: float


class TicketBook:
    """The tickets that are out, by their sha256; memory that leaks holds none that can be used.

    A student has at most `per_student` tickets, the oldest goes first: one hostile student cannot crowd out another's,
    and the book never holds more than that times the roster. `clock` is monotonic seconds.
    """

    def __init__(
        self, *, lifetime: float = LIFETIME, per_student: int = 8, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lifetime = lifetime
        self._per_student = per_student
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def issue(self, username: str) -> str:
        """A new ticket for this student."""
        self._forget_expired()
        theirs = [digest for digest, entry in self._entries.items() if entry.username == username]
        for digest in theirs[: len(theirs) - self._per_student + 1]:
            del self._entries[digest]
        ticket = secrets.token_urlsafe(_BYTES)
        self._entries[_digest(ticket)] = _Entry(username, self._clock() + self._lifetime)
        return ticket

    def redeem(self, ticket: str, is_theirs: Callable[[str], bool] = lambda username: True) -> str | None:
        """Whose ticket it is, or None. The first redemption uses it up.

        `is_theirs(username)` says whether the one who asks may have it. When it says no, the ticket stays: a
        neighbour who got hold of it can then neither use it nor take it away.
        """
        self._forget_expired()
        digest = _digest(ticket)
        entry = self._entries.get(digest)
        if entry is None or not is_theirs(entry.username):
            return None
        del self._entries[digest]
        return entry.username

    def _forget_expired(self) -> None:
        now = self._clock()
        # Every ticket lives equally long, so the dict is in order of expiry.
        for digest, entry in list(self._entries.items()):
            if entry.expires > now:
                break
            del self._entries[digest]


def redeem(tickets_socket: Path, ticket: str, *, timeout: float = 5.0) -> bool:
    """Ask the front page whether this ticket signs in the owner of this process. Runs as the student; blocks.

    False as well when nobody answers within `timeout` seconds or the front page is down: the password form remains.
    """
    if not is_well_formed(ticket):
        return False
    deadline = time.monotonic() + timeout
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            _connect(connection, tickets_socket, deadline)
            connection.sendall(ticket.encode("ascii") + b"\n")
            while not answer.endswith(b"\n") and len(answer) < MAX_LINE:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                part = connection.recv(MAX_LINE)
                if not part:
                    break
                answer += part
    except OSError:
        return False
    return is_yes(answer)


def is_yes(answer: bytes) -> bool:
    """Whether the front page's line says that the ticket was good."""
    try:
        said = json.loads(answer)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("ok") is True


def answer_line(is_good: bool) -> bytes:
    """The front page's whole answer."""
    return json.dumps({"ok": is_good}).encode("ascii") + b"\n"


def _connect(connection: socket.socket, tickets_socket: Path, deadline: float) -> None:
    """Connect before the deadline. A unix socket with a timeout gets EAGAIN while the queue is full (connect(2)).

    Any student can fill the queue for a moment; the front page empties it as fast as it can.
    """
    while True:
        try:
            connection.connect(str(tickets_socket))
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
