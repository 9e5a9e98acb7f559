"""The stream of a student's child (gathering) as whoever takes it in reads it: one frame, one call, nothing believed.

What a frame may hold is checked by the taker; here is only which may come when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nblauncher import manifest, workers
from nblauncher.errors import HostError


class Taker(Protocol):
    """Takes in a student's files, one after the other. Each call may raise HostError."""

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
        """A file that is there already."""
        ...

    def exclude(self, path: str, reason: str, incomplete: bool) -> None: ...


def take(frame: workers.Frame, taker: Taker) -> bool:
    """Hand one frame on; False when it was the last. HostError for one that comes out of turn or is none."""
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
        for path, stamp, sha256 in manifest.rows_in(header.get("files")):
            taker.same({"path": path, "stamp": stamp, "sha256": sha256})
    elif kind == "excluded":
        taker.exclude(text(header, "path"), text(header, "reason"), header.get("incomplete") is not False)
    elif kind not in ("tick", "finish"):
        raise broken(f"{kind!r}")
    return bool(kind != "finish")


def text(header: Mapping[str, Any], key: str) -> str:
    """A text of a sensible length; HostError for anything else."""
    value = header.get(key)
    if not isinstance(value, str) or len(value) > 1 << 16:
        raise broken(f"no {key}")
    return value


def broken(what: str) -> HostError:
    return HostError(f"the student's copy broke its rules: {what}")
