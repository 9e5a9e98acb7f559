"""supervisor.sock, for root's commands. A bad request is refused and logged; none is fatal or blocks another."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import NblauncherError
from nblauncher.supervisor.loop import READ, WRITE, Loop, Timer
from nblauncher.supervisor.specs import SpecError
from nblauncher.system.descriptors import peer_uid
from nblauncher.system.wire import Reader, WireError, close_all, pack

log = logging.getLogger(__name__)

UNKNOWN = "no such request"
"""The answer to a request of a newer release; its words stay."""

MAX_CONNECTIONS = 64
_ACCEPT_PAUSE = 1.0
MAX_UNSENT = 1 << 20
"""Bytes of answers that a client may leave unread; beyond that nothing more is read from it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request: `descriptors` are closed when its handler returns; `answer` is called once, then or later."""

    fields: Mapping[str, Any]
    descriptors: list[int]
    answer: Callable[[Mapping[str, Any]], None]


Handler = Callable[[Request], None]


class ControlSocket:
    """Accepts clients. Only root may connect (the socket's mode, and the peer's uid)."""

    def __init__(self, loop: Loop, listening: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._loop, self._listening, self._handlers = loop, listening, handlers
        self._clients: set[_Client] = set()
        listening.setblocking(False)
        self._pause: Timer | None = None
        self._watch()

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.forget(self._listening.fileno())
        self._listening.close()
        for client in list(self._clients):
            client.close()

    def flush(self) -> None:
        """Send what can be sent without waiting, before the end."""
        for client in list(self._clients):
            client.flush()

    def forget(self, client: _Client) -> None:
        self._clients.discard(client)

    def handle(self, message: Mapping[str, Any], descriptors: list[int], client: _Client) -> None:
        """Answer one request, or send the reason why not."""
        number = message.get("id")

        def answer(result: Mapping[str, Any]) -> None:
            client.send({**result, "id": number})

        try:
            handler = self._handlers.get(str(message.get("ask")))
            if handler is None:
                raise SpecError(UNKNOWN)
            handler(Request(message, descriptors, answer))
        except NblauncherError as error:
            answer({"problem": error.problem, "hint": error.hint})
        except (SpecError, OSError) as error:
            log.warning("refused a request: %s", error)
            answer({"problem": f"the supervisor refused: {error}", "hint": ""})
        finally:
            close_all(descriptors)

    def _watch(self) -> None:
        self._pause = None
        self._loop.watch(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _address = self._listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Without a free descriptor the socket stays readable, and the loop would spin.
            log.error("cannot accept a connection: %s; trying again in %.0f s", error.strerror, _ACCEPT_PAUSE)
            self._loop.forget(self._listening.fileno())
            self._pause = self._loop.later(_ACCEPT_PAUSE, self._watch)
            return
        uid = peer_uid(connection)
        if uid != 0 or len(self._clients) >= MAX_CONNECTIONS:
            log.warning("refused a connection of uid %d", uid)
            connection.close()
            return
        self._clients.add(_Client(self, self._loop, connection))


class _Client:
    def __init__(self, control: ControlSocket, loop: Loop, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._control, self._loop, self._connection = control, loop, connection
        self._reader = Reader()
        self._unsent = b""
        self._is_open = True
        loop.watch(connection.fileno(), self._ready)

    def send(self, message: Mapping[str, Any]) -> None:
        """Nothing happens when the client has gone."""
        if self._is_open:
            self._unsent += pack(message)
            self.flush()

    def flush(self) -> None:
        if not self._is_open:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[self._connection.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        events = (0 if self._is_full else READ) | (WRITE if self._unsent else 0)
        self._loop.watch(self._connection.fileno(), self._ready, events)

    @property
    def _is_full(self) -> bool:
        return len(self._unsent) > MAX_UNSENT

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.forget(self._connection.fileno())
        self._connection.close()
        self._reader.close()
        self._control.forget(self)

    def _ready(self) -> None:
        self.flush()
        try:
            self._serve()
            if self._is_open and not self._is_full:
                is_there = self._reader.feed(self._connection)
                self._serve()
                if not is_there:
                    self.close()
        except BlockingIOError:
            return
        except (WireError, OSError) as error:
            log.warning("a client was disconnected: %s", error)
            self.close()

    def _serve(self) -> None:
        """Handle the requests that have arrived, as long as the client reads the answers."""
        while self._is_open and not self._is_full and (request := self._reader.next()) is not None:
            self._control.handle(*request, self)
