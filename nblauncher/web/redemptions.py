"""tickets.sock: notebook servers redeem tickets here. Anybody on the host may connect; the peer's uid decides.

A connection has five seconds to send one short line. Only students of the class are listened to, each on at most eight
connections at a time, so none of them can keep another's server from being heard.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

from nblauncher.tickets import MAX_LINE, TicketBook, answer_line, is_well_formed
from nblauncher.web.accepting import Listener

log = logging.getLogger(__name__)

PATIENCE = 5.0
PER_STUDENT = 8

_PEER = struct.Struct("3i")


class Redemptions:
    """Serves an inherited listening unix socket from the ticket book."""

    def __init__(self, listening: socket.socket, book: TicketBook, uids: Mapping[str, int]) -> None:
        self._book = book
        self._uids = uids
        self._known = frozenset(uids.values())
        self._open: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(listening, self._welcome, lambda: False)

    def close(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    def _welcome(self, connection: socket.socket, address: Any) -> None:
        uid = peer_uid(connection)
        if uid not in self._known or self._open[uid] >= PER_STUDENT:
            connection.close()
            return
        self._open[uid] += 1
        task = asyncio.ensure_future(self._answer(connection, uid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, connection: socket.socket, uid: int) -> None:
        try:
            line = await asyncio.wait_for(_read_line(connection), PATIENCE)
            is_good = self._redeem(line, uid)
            # A line of 15 bytes always fits the empty buffer of a new connection.
            connection.send(answer_line(is_good))
        except (OSError, asyncio.TimeoutError):
            log.info("a server with uid %d did not finish its question", uid)
        finally:
            connection.close()
            self._open -= Counter({uid: 1})

    def _redeem(self, line: bytes, uid: int) -> bool:
        ticket = line.decode("ascii", "replace").removesuffix("\n")
        if not is_well_formed(ticket):
            return False
        return self._book.redeem(ticket, lambda username: self._uids.get(username) == uid) is not None


def peer_uid(connection: socket.socket) -> int:
    """The uid that the peer had when it connected (SO_PEERCRED, unix(7)); the kernel says so, not the peer."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(credentials)[1])


async def _read_line(connection: socket.socket) -> bytes:
    """The first line, or as much of it as there will be."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        part = await loop.sock_recv(connection, MAX_LINE - len(line))
        if not part:
            break
        line += part
    return line
