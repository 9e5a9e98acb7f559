"""Tickets: a student who signed in at the front page arrives at their own server signed in.

The front page keeps the tickets; a student's server redeems one over `tickets.sock` (docs/decisions/tickets.md). This
imports only the standard library: the notebook server, a student's process, uses `redeem`.

The conversation, once per connection: the server sends the ticket and a newline, the front page answers one line of
JSON, `{"ok": true}` or `{"ok": false}`, and closes. For a ticket from a teacher's link (`nblauncher open`) the answer
also has `"visit"`, the visit's name.
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
_VISIT = re.compile(r"[0-9a-f]{16}")


def is_well_formed(ticket: str) -> bool:
    """Whether the text has the form of a ticket: 128 bits as unpadded URL-safe base64."""
    return _TEXT.fullmatch(ticket) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a ticket is good for. `visit` is the name of the teacher's visit; empty: the student signed in."""

    username: str
    expires: float
    visit: str = ""


class TicketBook:
    """The valid tickets, by their sha256: a memory leak reveals none that can be used.

    A student has at most `per_student` tickets, and the oldest goes first: a hostile student cannot crowd out
    another's, and the book never holds more than that times the roster. `clock` is monotonic seconds.
    """

    def __init__(
        self, *, lifetime: float = LIFETIME, per_student: int = 8, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lifetime = lifetime
        self._per_student = per_student
        self._clock = clock
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def issue(self, username: str, visit: str = "") -> str:
        """A new ticket for this student's server."""
        self._forget_expired()
        theirs = [digest for digest, entry in self._entries.items() if entry.username == username]
        for digest in theirs[: len(theirs) - self._per_student + 1]:
            del self._entries[digest]
        ticket = secrets.token_urlsafe(_BYTES)
        self._entries[_digest(ticket)] = Entry(username, self._clock() + self._lifetime, visit)
        return ticket

    def redeem(self, ticket: str, is_theirs: Callable[[str], bool] = lambda username: True) -> str | None:
        """The username of the ticket's student, or None: see `take`."""
        entry = self.take(ticket, is_theirs)
        return None if entry is None else entry.username

    def take(self, ticket: str, is_theirs: Callable[[str], bool] = lambda username: True) -> Entry | None:
        """What this ticket is good for, or None. The first redemption uses it up.

        `is_theirs(username)` is whether the ticket belongs to the caller. If it is False the ticket stays valid:
        another student who got hold of it can neither use it nor spoil it.
        """
        self._forget_expired()
        digest = _digest(ticket)
        entry = self._entries.get(digest)
        if entry is None or not is_theirs(entry.username):
            return None
        del self._entries[digest]
        return entry

    def forget(self, username: str) -> None:
        """The student's tickets are void."""
        for digest in [digest for digest, entry in self._entries.items() if entry.username == username]:
            del self._entries[digest]

    def _forget_expired(self) -> None:
        now = self._clock()
        # All tickets have the same lifetime, so the dict is in order of expiry.
        for digest, entry in list(self._entries.items()):
            if entry.expires > now:
                break
            del self._entries[digest]


@dataclass(frozen=True, slots=True)
class Admission:
    """The front page's yes. `visit` is empty if the student signed in."""

    visit: str = ""


def redeem(tickets_socket: Path, ticket: str, *, timeout: float = 5.0) -> bool:
    """Whether this ticket signs in the owner of this process: see `admission`."""
    return admission(tickets_socket, ticket, timeout=timeout) is not None


def admission(tickets_socket: Path, ticket: str, *, timeout: float = 5.0) -> Admission | None:
    """Ask the front page whether this ticket signs in the owner of this process. Runs as the student; blocks.

    None too if no answer comes within `timeout` seconds or the front page is down: the password form remains.
    """
    if not is_well_formed(ticket):
        return None
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
        return None
    return admission_in(answer)


def admission_in(answer: bytes) -> Admission | None:
    """What the front page answered; None if it is not a yes."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(parsed, dict) or parsed.get("ok") is not True:
        return None
    visit = parsed.get("visit", "")
    return Admission(visit) if visit == "" or (isinstance(visit, str) and _VISIT.fullmatch(visit)) else None


def answer_line(is_good: bool, visit: str = "") -> bytes:
    """The front page's answer."""
    about = {"visit": visit} if is_good and visit else {}
    return json.dumps({"ok": is_good, **about}).encode("ascii") + b"\n"


def _connect(connection: socket.socket, tickets_socket: Path, deadline: float) -> None:
    """Connect before the deadline. A unix socket with a timeout gets EAGAIN while the queue is full (connect(2)).

    A student can fill the queue for a moment; the front page empties it as fast as it can.
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
