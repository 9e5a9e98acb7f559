"""What the class's host asks of a server on a node, and what the server answers. Without Jupyter.

A request tells the server what its student is told, and may ask it to end its kernels; the answer has what a server on
the class's host reports through its pipe. The request is sealed for this student and this start of the server. The
answer is the student's word about that server: the host checks its form, and believes it about nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nblauncher.server import notices
from nblauncher.system import seals
from nblauncher.system.seals import Seals

PATH = "nblauncher/host"
"""Below the server's base URL."""

HEADER = "X-Nblauncher-Seal"

LARGEST = 2 * notices.LARGEST
"""Bytes of a request."""

LARGEST_ANSWER = 1024

MOST_KERNELS = 9999
_MOST_TIMES = 2**31
_MOST_BYTES = 2**50
_PURPOSE = "request"
_NAME = re.compile(r"(?:[0-9a-f]{16})?")


@dataclass(frozen=True, slots=True)
class HostRequest:
    """`notices` is the content of the student's file (nblauncher.server.notices). `end_kernels` names the teacher's
    wish, which may come several times; empty: none. `hashed_password` is that of a new password; empty: it stays.
    """

    notices: bytes
    end_kernels: str = ""
    hashed_password: str = field(default="", repr=False)

    def to_bytes(self) -> bytes:
        return json.dumps({**asdict(self), "notices": self.notices.decode("ascii")}).encode("ascii")

    @classmethod
    def parse(cls, content: bytes) -> HostRequest:
        given = json.loads(content)
        notices = str(given["notices"]).encode("ascii")
        return cls(notices, str(given["end_kernels"]), str(given["hashed_password"]))


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """`saves`, `uses` and `sign_ins` count since the server began: when one of them grows, something happened."""

    kernels: int
    busy: int
    saves: int
    uses: int
    sign_ins: int
    memory: int | None = None
    """Bytes that the job takes (nblauncher.server.job_memory); None: not known."""
    ended: str = ""
    """The last wish to end kernels that was fulfilled, and how many there were."""
    ended_kernels: int = 0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def parse(cls, content: bytes) -> HostAnswer:
        """ValueError for anything that a server of ours does not say."""
        if len(content) > LARGEST_ANSWER:
            raise ValueError("the answer is too long")
        try:
            return cls.of(json.loads(content))
        except RecursionError as error:
            raise ValueError("the answer is nested too deeply") from error

    @classmethod
    def of(cls, given: object) -> HostAnswer:
        """ValueError as `parse`."""
        if not isinstance(given, Mapping):
            raise ValueError("the answer is not an object")
        memory, ended = given.get("memory"), given.get("ended")
        if not isinstance(ended, str) or not _NAME.fullmatch(ended):
            raise ValueError("the answer names no wish of ours")
        return cls(
            _number(given, "kernels", MOST_KERNELS),
            _number(given, "busy", MOST_KERNELS),
            _number(given, "saves", _MOST_TIMES),
            _number(given, "uses", _MOST_TIMES),
            _number(given, "sign_ins", _MOST_TIMES),
            None if memory is None else _number(given, "memory", _MOST_BYTES),
            ended,
            _number(given, "ended_kernels", MOST_KERNELS),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def seal(hashed_password: str, username: str, run: str, body: bytes, clock: Callable[[], float] = time.time) -> str:
    """For the header of a request with this body. `run` names the start of the server."""
    return seals.make(hashed_password, _PURPOSE, _about(username, run, body), clock)


def is_sealed(used: Seals, given: str, *, hashed_password: str, username: str, run: str, body: bytes) -> bool:
    """Whether the class's host sent this request to this start of the server, and it is used for the first time."""
    is_short = len(body) <= LARGEST
    return is_short and used.accept(hashed_password, _PURPOSE, _about(username, run, body), given)


def _about(username: str, run: str, body: bytes) -> str:
    return f"{username} {run} {hashlib.sha256(body).hexdigest()}"


def _number(given: Mapping[str, object], key: str, most: int) -> int:
    found = given.get(key)
    if type(found) is not int or not 0 <= found <= most:
        raise ValueError(f"{key} is not a number from 0 to {most}")
    return found
