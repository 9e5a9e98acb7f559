"""Accepts connections, and survives a lack of descriptors without spinning."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

_AT_ONCE = 32
_PAUSE = 0.2
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Hands each accepted connection to `welcome`; a few at a time, so that those already in get their turn.

    When the process or the host has no descriptor left, `make_room()` is to end the least useful connection and say
    whether it could; if not, no connection is accepted for a moment.
    """

    def __init__(
        self,
        listening: socket.socket,
        welcome: Callable[[socket.socket, Any], None],
        make_room: Callable[[], bool],
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._welcome = welcome
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._accept)

    @property
    def is_closed(self) -> bool:
        return self._listening.fileno() < 0

    def close(self) -> None:
        """Stop accepting. The socket itself lives on: the supervisor holds it for the life of the class."""
        if self.is_closed:
            return
        self._loop.remove_reader(self._listening)
        if self._resume is not None:
            self._resume.cancel()
        self._listening.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    # The client left while it waited in the backlog (accept(2) lists the errors of its network).
                    continue
                if not self._make_room():
                    self._pause(error)
                    return
            else:
                connection.setblocking(False)
                self._welcome(connection, address)

    def _pause(self, error: OSError) -> None:
        log.warning("no connection is accepted for a moment: %s", error.strerror)
        self._loop.remove_reader(self._listening)
        self._resume = self._loop.call_later(_PAUSE, self._loop.add_reader, self._listening, self._accept)
