"""Messages on supervisor.sock: a length, a JSON object, and descriptors beside it (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

MAX_MESSAGE = 4 << 20
MAX_DESCRIPTORS = 32
"""With one message."""

_LENGTH = struct.Struct("!I")
_PART = 1 << 16


class WireError(Exception):
    """What arrived is not a message of ours."""


def pack(message: Mapping[str, Any]) -> bytes:
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(text) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(text)} bytes")
    return _LENGTH.pack(len(text)) + text


def send(connection: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send all of it; blocks. The other side gets duplicates of the descriptors."""
    data = pack({**message, "descriptors": len(descriptors)})
    sent = socket.send_fds(connection, [data], list(descriptors)) if descriptors else 0
    if sent < len(data):
        # Not with an empty rest: a peer that has everything may have hung up by now.
        connection.sendall(data[sent:])


class Reader:
    """Collects bytes and cuts them into messages. `close` closes the descriptors that were not taken."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._descriptors: list[int] = []

    def feed(self, connection: socket.socket) -> bool:
        """Take one part from the socket; False when the other side hung up. WireError for too many descriptors."""
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
        data, ancillary, flags, _ = connection.recvmsg(_PART, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors += numbers
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > 4 * MAX_DESCRIPTORS:
            raise WireError("too many descriptors")
        self._data += data
        return bool(data)

    def next(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next whole message with its descriptors, which are the caller's to close; None when there is none yet."""
        if len(self._data) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._data)
        if size > MAX_MESSAGE:
            raise WireError(f"a message of {size} bytes")
        end = _LENGTH.size + size
        if len(self._data) < end:
            return None
        message = _parsed(bytes(self._data[_LENGTH.size : end]))
        del self._data[:end]
        count = message.get("descriptors", 0)
        if type(count) is not int or not 0 <= count <= len(self._descriptors):
            raise WireError("descriptors were announced that did not come")
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return message, descriptors

    def close(self) -> None:
        close_all(self._descriptors)
        self._descriptors = []


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("the message is not JSON") from error
    if not isinstance(message, dict):
        raise WireError("the message is not an object")
    return message
