"""Tickets for servers that cannot reach the front page: it signs them, and the server checks the signature itself.

A server on a node of a cluster has no way to `tickets.sock`. Both sides know the hash of the notebook password, which
is random and secret: the key is made from it. So a ticket is good for that student's server alone, and for none after
a change of the password. The student can read the own hash and make tickets, for a server that is the student's anyway.
This imports only the standard library: the notebook server, a student's process, uses `Redeemed`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable

LIFETIME = 60.0
"""Seconds. The clocks of a cluster agree: Slurm's own signatures (MUNGE) live for 300 seconds."""

_SKEW = 5.0
"""Seconds by which the clocks of two hosts may differ."""

_TEXT = re.compile(r"(?P<body>(?P<at>[0-9a-f]{8,12})\.[A-Za-z0-9_-]{22})\.(?P<seal>[A-Za-z0-9_-]{43})", re.ASCII)
_BYTES = 16


def issue(username: str, hashed_password: str, clock: Callable[[], float] = time.time) -> str:
    """A ticket for this student's server."""
    body = f"{int(clock()):08x}.{secrets.token_urlsafe(_BYTES)}"
    return f"{body}.{_seal(username, hashed_password, body)}"


class Redeemed:
    """Of one server: each ticket is good once, while this server runs."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began = clock()
        self._used: dict[str, float] = {}

    def redeem(self, username: str, hashed_password: str, ticket: str) -> bool:
        """Whether this ticket signs the student in. One from before this server began could be a used one."""
        found = _TEXT.fullmatch(ticket)
        if found is None or not hmac.compare_digest(found["seal"], _seal(username, hashed_password, found["body"])):
            return False
        now, at = self._clock(), int(found["at"], 16)
        if abs(now - at) > LIFETIME or at < self._began - _SKEW or found["body"] in self._used:
            return False
        self._used = {body: until for body, until in self._used.items() if until > now}
        self._used[found["body"]] = at + 2 * LIFETIME
        return True


def _seal(username: str, hashed_password: str, body: str) -> str:
    key = hmac.new(hashed_password.encode("ascii"), b"nblauncher ticket", hashlib.sha256).digest()
    made = hmac.new(key, f"{username} {body}".encode("ascii"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).decode("ascii").rstrip("=")
