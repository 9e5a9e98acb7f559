"""Seals: short texts that only a holder of a shared secret can make, each good once and for a minute.

A server on a node of a cluster cannot ask the class's host about anything. Both know the hash of the student's notebook
password, which is random and secret, and from which a key is made for each purpose. So a seal is good for that
student's server alone, and for none after a change of the password. This imports only the standard library.
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


def make(secret: str, purpose: str, about: str, clock: Callable[[], float] = time.time) -> str:
    """A seal on `about`, which is ASCII."""
    body = f"{int(clock()):08x}.{secrets.token_urlsafe(_BYTES)}"
    return f"{body}.{_mac(secret, purpose, about, body)}"


class Seals:
    """Of one server: each seal is good once, while this server runs."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began = clock()
        self._used: dict[str, float] = {}

    def accept(self, secret: str, purpose: str, about: str, seal: str) -> bool:
        """Whether this seal is on `about`, and is used now. One from before this server began could be a used one."""
        found = _TEXT.fullmatch(seal)
        if found is None or not hmac.compare_digest(found["seal"], _mac(secret, purpose, about, found["body"])):
            return False
        now, at = self._clock(), int(found["at"], 16)
        if abs(now - at) > LIFETIME or at < self._began - _SKEW or found["body"] in self._used:
            return False
        self._used = {body: until for body, until in self._used.items() if until > now}
        self._used[found["body"]] = at + 2 * LIFETIME
        return True


def _mac(secret: str, purpose: str, about: str, body: str) -> str:
    key = hmac.new(secret.encode("ascii"), f"nblauncher {purpose}".encode("ascii"), hashlib.sha256).digest()
    made = hmac.new(key, f"{about} {body}".encode("ascii"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).decode("ascii").rstrip("=")
