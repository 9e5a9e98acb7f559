"""Other students and passwords while the front page runs, from the supervisor: sealed memory files, as at its start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import replace

from nblauncher.system.descriptors import read_and_close
from nblauncher.system.wire import close_all
from nblauncher.web.inputs import ClassPage, parse_config

log = logging.getLogger(__name__)


class Renewals:
    """Calls `take` with the new config of this same class, and confirms it."""

    def __init__(self, link: socket.socket, of: ClassPage, take: Callable[[ClassPage], None]) -> None:
        link.setblocking(False)
        self._link, self._of, self._take = link, of, take
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(link, self._heard)

    def close(self) -> None:
        self._loop.remove_reader(self._link)
        self._link.close()

    def _heard(self) -> None:
        try:
            word, descriptors, _flags, _address = socket.recv_fds(self._link, 64, 4)
        except BlockingIOError:
            return
        except OSError:
            word, descriptors = b"", []
        if not word:
            self._loop.remove_reader(self._link)
            return
        close_all(descriptors[1:])
        answer = b"taken" if descriptors and self._is_taken(descriptors[0]) else b"refused"
        with contextlib.suppress(OSError):  # the supervisor may have given up
            self._link.send(answer)

    def _is_taken(self, descriptor: int) -> bool:
        """What else a config has is fixed at the start: addresses, certificates, the interface."""
        try:
            new = parse_config(read_and_close(descriptor))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("a new config is not one: %s", type(error).__name__)
            return False
        if replace(new, students={}) != replace(self._of, students={}):
            return False
        self._take(new)
        return True
