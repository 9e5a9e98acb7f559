"""Reads the stream of a student's child: one call for each frame, nothing believed.

The taker checks what a frame holds; this module checks which frame may come when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nblauncher.errors import HostError
from nblauncher.exchange.rows import objects
from nblauncher.system import workers


class Taker(Protocol):
    """Receives a student's files, one after the other. Each call may raise HostError."""

    @property
    def is_within(self) -> bool:
        """Whether a file has begun and not ended."""
        ...

    def begin(self, header: Mapping[str, Any]) -> None: ...

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def drop(self) -> None:
        """The file changed while it was read: forget it."""
        ...

    def same(self, header: Mapping[str, Any]) -> None:
        """A file that the taker already has."""
        ...

    def exclude(self, path: str, reason: str, incomplete: bool) -> None: ...


def take(frame: workers.Frame, taker: Taker) -> bool:
    """Pass one frame on; False when it was the last. HostError when it is out of turn or malformed."""
    header, kind = frame.header, frame.header.get("kind")
    if kind != "tick" and (kind in ("data", "end", "void")) != taker.is_within:
        raise broken(f"{kind!r} out of turn")
    if kind == "file":
        taker.begin(header)
        taker.write(frame.payload)
        taker.end()
    elif kind == "begin":
        taker.begin(header)
    elif kind == "data":
        taker.write(frame.payload)
    elif kind == "end":
        taker.end()
    elif kind == "void":
        taker.drop()
    elif kind == "same":
        for row in objects(header.get("files")):
            taker.same(row)
    elif kind == "excluded":
        taker.exclude(text(header, "path"), text(header, "reason"), header.get("incomplete") is not False)
    elif kind not in ("tick", "finish"):
        raise broken(f"{kind!r}")
    return bool(kind != "finish")


def text(header: Mapping[str, Any], key: str) -> str:
    """A string of sensible length; HostError for anything else."""
    value = header.get(key)
    if not isinstance(value, str) or len(value) > 1 << 16:
        raise broken(f"no {key}")
    return value


def broken(what: str) -> HostError:
    return HostError(f"the student's copy broke its rules: {what}")
