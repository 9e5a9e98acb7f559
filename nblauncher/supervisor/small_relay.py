"""A relay for hosts that lack systemd-socket-proxyd: forked from the supervisor, so that it needs no Python of its own.

Runs as the front page's account. It passes bytes and looks at none of them.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nblauncher.system import privileges

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""As getaddrinfo(3) has it."""

_BLOCK = 1 << 16
_MOST = 1024
"""Connections at a time; more wait to be accepted."""


def serve(listening: Sequence[int], host: str, port: int) -> NoReturn:
    """Pass on what comes to these sockets. Ends with its process."""
    gc.disable()
    privileges.set_name("nbl-relay")
    address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    selector = selectors.DefaultSelector()
    sockets = [socket.socket(fileno=number) for number in listening]
    for one in sockets:
        selector.register(one, selectors.EVENT_READ)
    pairs = 0

    def gone() -> None:
        nonlocal pairs
        pairs -= 1

    while True:
        for key, events in selector.select(None if pairs < _MOST else 0.1):
            if isinstance(key.data, _Pair):
                key.data.on(key.fileobj, events)  # type: ignore[arg-type]
            elif pairs < _MOST:
                with contextlib.suppress(OSError):
                    client, _from = key.fileobj.accept()  # type: ignore[union-attr]
                    pairs += 1
                    _Pair(selector, client, address, gone)


class _Pair:
    """A connection of a browser's, and the one to the node that belongs to it."""

    def __init__(
        self, selector: selectors.BaseSelector, client: socket.socket, address: Address, gone: Callable[[], None]
    ) -> None:
        self._selector, self._gone = selector, gone
        family, kind, protocol, _name, place = address
        self._server = server = socket.socket(family, kind, protocol)
        self._other = {client: server, server: client}
        self._unsent = {client: b"", server: b""}
        self._ended: set[socket.socket] = set()
        """They will send no more."""
        self._is_connected = self._is_closed = False
        for end in self._other:
            end.setblocking(False)
        if server.connect_ex(place) not in (0, errno.EINPROGRESS):
            self._close()
            return
        self._watch()

    def on(self, end: socket.socket, events: int) -> None:
        if self._is_closed:
            return
        try:
            if events & selectors.EVENT_WRITE:
                self._send(end)
            if events & selectors.EVENT_READ:
                self._receive(end)
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        if len(self._ended) == 2 and not any(self._unsent.values()):
            self._close()
        else:
            self._watch()

    def _receive(self, end: socket.socket) -> None:
        data, other = end.recv(_BLOCK), self._other[end]
        if data:
            self._unsent[other] += data
            if self._is_connected or other is not self._server:
                self._send(other)
        else:
            self._ended.add(end)
            if not self._unsent[other]:
                other.shutdown(socket.SHUT_WR)

    def _send(self, end: socket.socket) -> None:
        if end is self._server and not self._is_connected:
            if problem := end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(problem, "cannot connect")
            self._is_connected = True
        if self._unsent[end]:
            self._unsent[end] = self._unsent[end][end.send(self._unsent[end]) :]
            if not self._unsent[end] and self._other[end] in self._ended:
                end.shutdown(socket.SHUT_WR)

    def _watch(self) -> None:
        """Read from an end only when all that it sent before has gone on: the sender is as slow as the receiver."""
        for end, other in self._other.items():
            wanted = 0 if end in self._ended or self._unsent[other] else selectors.EVENT_READ
            if self._unsent[end] or (end is self._server and not self._is_connected):
                wanted |= selectors.EVENT_WRITE
            known = self._selector.get_map().get(end)
            if known is None and wanted:
                self._selector.register(end, wanted, self)
            elif known is not None and not wanted:
                self._selector.unregister(end)
            elif known is not None and known.events != wanted:
                self._selector.modify(end, wanted, self)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            for end in self._other:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(end)
                end.close()
            self._gone()
