"""Files and JSON between the processes of one grading, in frames with bounds. Needs the standard library only.

A parcel is a header and any number of bytes, sent as one or more frames (system.workers). The reader says how much it
accepts; more is a HostError, so that no sender can fill the reader's memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.system import workers

_PART = workers.MAX_PAYLOAD
END = "end"


@dataclass(frozen=True, slots=True)
class Parcel:
    """`kind` says what it is; `name` which one; `data` what is in it."""

    kind: str
    name: str
    data: bytes

    def json(self) -> Any:
        """HostError when it is not JSON."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as error:
            raise HostError(f"what a grading process sent as {self.kind} is not JSON") from error


def put(output: int, kind: str, data: bytes = b"", name: str = "") -> None:
    """Send one parcel; blocks."""
    parts = [data[start : start + _PART] for start in range(0, len(data), _PART)] or [b""]
    for number, part in enumerate(parts):
        workers.write_frame(output, {"kind": kind, "name": name, "more": number + 1 < len(parts)}, part)


def put_json(output: int, kind: str, value: Mapping[str, Any]) -> None:
    put(output, kind, json.dumps(value).encode())


def take(source: int, *, most: int, stall: float | None = None) -> Iterator[Parcel]:
    """The parcels until `END` or the end of the stream; HostError when they have more than `most` bytes together,
    TimeoutError when nothing comes for `stall` seconds.
    """
    left = most
    while (parcel := take_one(source, most=left, stall=stall)) is not None and parcel.kind != END:
        left -= len(parcel.data)
        yield parcel


def take_one(source: int, *, most: int, stall: float | None = None) -> Parcel | None:
    """The next parcel; None at the end of the stream."""
    parts: list[bytes] = []
    size = 0
    while (frame := workers.read_frame(source, stall)) is not None:
        kind, name = frame.header.get("kind"), frame.header.get("name")
        if not isinstance(kind, str) or not isinstance(name, str):
            raise HostError("a grading process sent a frame without a kind")
        size += len(frame.payload)
        if size > most:
            raise HostError(f"a grading process sent more than {most} bytes")
        parts.append(frame.payload)
        if not frame.header.get("more"):
            return Parcel(kind, name, b"".join(parts))
    if parts:
        raise HostError("a grading process ended in the middle of a parcel")
    return None
