"""Tickets for servers that cannot reach the front page: it seals them, and the server checks the seal itself.

A server on a node of a cluster has no way to `tickets.sock`. The ticket of a teacher's link names the visit. The
student can read the own hash and make tickets, for a server that is the student's anyway.
This imports only the standard library: the notebook server, a student's process, uses `Redeemed`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from nblauncher.auth.tickets import Admission
from nblauncher.system import seals
from nblauncher.system.seals import Seals

LIFETIME = seals.LIFETIME
_PURPOSE = "ticket"
_TEXT = re.compile(r"(?P<seal>[^.]*\.[^.]*\.[^.]*)(?:\.(?P<visit>[0-9a-f]{16}))?", re.ASCII)


def issue(username: str, hashed_password: str, visit: str = "", clock: Callable[[], float] = time.time) -> str:
    """A ticket for this student's server. `visit` is the name of the teacher's visit."""
    made = seals.make(hashed_password, _PURPOSE, _about(username, visit), clock)
    return f"{made}.{visit}" if visit else made


class Redeemed:
    """Of one server: each ticket is good once, while this server runs."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._seals = Seals(clock)

    def redeem(self, username: str, hashed_password: str, ticket: str) -> Admission | None:
        """What this ticket is good for, or None."""
        found = _TEXT.fullmatch(ticket)
        if found is None:
            return None
        visit = found["visit"] or ""
        is_good = self._seals.accept(hashed_password, _PURPOSE, _about(username, visit), found["seal"])
        return Admission(visit) if is_good else None


def _about(username: str, visit: str) -> str:
    return f"{username} {visit}" if visit else username
