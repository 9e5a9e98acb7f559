"""Students and passwords for the front page while it runs: sealed memory files, passed on and never read here."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from nblauncher.supervisor.loop import Loop, Timer

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that the front page may take."""

TAKEN = b"taken"


class Renewals:
    """One at a time; the next one supersedes one that is not answered yet."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._socket: socket.socket | None = None
        self._done: Callable[[bool], None] | None = None
        self._timer: Timer | None = None

    def open(self) -> socket.socket:
        """A new connection. Returns the front page's end, which the caller closes."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        self._loop.watch(ours.fileno(), self._heard)
        return theirs

    def send(self, config: int, done: Callable[[bool], None]) -> None:
        self._finish(False)
        self._done = done
        try:
            if self._socket is None:
                raise OSError("there is no connection")
            socket.send_fds(self._socket, [b"renew"], [config])
        except OSError as error:
            log.error("the front page cannot be renewed: %s", error)
            self._finish(False)
            return
        self._timer = self._loop.later(PATIENCE, lambda: self._finish(False))

    def close(self) -> None:
        self._finish(False)
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _heard(self) -> None:
        """The front page is not trusted: anything but a yes is a no."""
        try:
            word = self._socket.recv(len(TAKEN) + 1) if self._socket is not None else b""
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            self.close()
        else:
            self._finish(word == TAKEN)

    def _finish(self, is_taken: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        done, self._done = self._done, None
        if done is not None:
            done(is_taken)
