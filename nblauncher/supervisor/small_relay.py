"""A relay of our own: forked from the supervisor, so that it needs no Python of its own.

Runs as the front page's account. It passes bytes and looks at none of them: the kernel moves them from one socket to
the other (splice(2)), through a pipe that exists only while it holds some. systemd-socket-proxyd keeps two pipes for
each connection, and the pipes of an account are limited (pipe-user-pages-soft).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from nblauncher.system import privileges

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""As getaddrinfo(3) has it."""

_PIPE = 1 << 18
"""Bytes: 64 pages, of the 16,384 that an account's pipes may have together."""
_MOST = 1024
"""Connections at a time; more wait to be accepted."""
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.02
"""Seconds until it tries again to accept a connection for which there was no descriptor or memory."""
_TURNS = 16
"""Moves for one connection before the others have their turn."""
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


def serve(listening: Sequence[int], host: str, port: int) -> NoReturn:
    """Pass on what comes to these sockets. Ends with its process."""
    gc.disable()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # splice(2) cannot be told not to raise it
    privileges.set_name("nbl-relay")
    _Relay(listening, socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)[0]).run()


class _Relay:
    def __init__(self, listening: Sequence[int], address: Address) -> None:
        self._address = address
        self._poll = select.epoll()
        self._listening = {number: socket.socket(fileno=number) for number in listening}
        self._pairs: dict[int, _Pair] = {}
        """By both of their descriptors."""
        self._busy: dict[_Pair, None] = {}
        """They may have more to move at once."""
        self._pipes = _Pipes()
        self._accepts = False
        self._accept(is_on=True)

    def run(self) -> NoReturn:
        while True:
            for number, _events in self._poll.poll(0 if self._busy else None):
                if pair := self._pairs.get(number):
                    self._busy[pair] = None
                elif number in self._listening:
                    self._take(self._listening[number])
            for pair in list(self._busy):
                if not pair.move(self._pipes):
                    del self._busy[pair]
                if pair.is_over:
                    self._drop(pair)

    def _take(self, listening: socket.socket) -> None:
        try:
            client, _from = listening.accept()
            self._add(_Pair(client, self._address))
        except OSError as error:
            if error.errno in _SHORT:  # the next look would find the connection still waiting, and so on
                time.sleep(_PAUSE)
        if self._is_full:
            self._accept(is_on=False)

    def _add(self, pair: _Pair) -> None:
        self._pairs |= {end.fileno(): pair for end in (pair.client, pair.server)}
        try:
            for end in (pair.client, pair.server):
                self._poll.register(end, _EVENTS)
        except OSError:
            self._drop(pair)
            raise

    def _drop(self, pair: _Pair) -> None:
        self._busy.pop(pair, None)
        for end in (pair.client, pair.server):
            del self._pairs[end.fileno()]
        pair.close(self._pipes)
        if not self._is_full:
            self._accept(is_on=True)

    @property
    def _is_full(self) -> bool:
        return len(self._pairs) >= 2 * _MOST

    def _accept(self, *, is_on: bool) -> None:
        """Two listening sockets may bring a connection at the same moment, beyond what there is room for."""
        if is_on is self._accepts:
            return
        self._accepts = is_on
        for listening in self._listening.values():
            if is_on:
                self._poll.register(listening, select.EPOLLIN)
            else:
                self._poll.unregister(listening)


class _Pipes:
    """One is kept for the next that needs it."""

    def __init__(self) -> None:
        self._spare: tuple[int, int] | None = None

    def take(self) -> tuple[int, int]:
        found, self._spare = self._spare, None
        if found is not None:
            return found
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # beyond the account's limit it is smaller
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE)
        return pipe

    def give(self, pipe: tuple[int, int], *, is_empty: bool = True) -> None:
        if is_empty and self._spare is None:
            self._spare = pipe
        else:
            os.close(pipe[0])
            os.close(pipe[1])


class _Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._pipe: tuple[int, int] | None = None
        self._held = 0
        """Bytes in the pipe."""
        self.is_over = False

    def move(self, pipes: _Pipes) -> bool:
        """Whether there may be more to move at once. OSError when one end is broken."""
        for _ in range(_TURNS):
            if self.is_over or not self._fill(pipes) or self._pipe is None:
                return False
            try:
                self._held -= os.splice(self._pipe[0], self._sink.fileno(), self._held, flags=_SPLICE)
            except BlockingIOError:
                return False
            if not self._held:
                pipes.give(self._pipe)
                self._pipe = None
        return True

    def _fill(self, pipes: _Pipes) -> bool:
        """Whether the pipe holds something."""
        if self._held:
            return True
        self._pipe = pipes.take()
        try:
            self._held = os.splice(self._source.fileno(), self._pipe[1], _PIPE, flags=_SPLICE)
        except BlockingIOError:
            self.close(pipes)
            return False
        if not self._held:
            self.is_over = True
            self.close(pipes)
            self._sink.shutdown(socket.SHUT_WR)
        return bool(self._held)

    def close(self, pipes: _Pipes) -> None:
        if self._pipe is not None:
            pipes.give(self._pipe, is_empty=not self._held)
            self._pipe = None


class _Pair:
    """A connection of a browser's, and the one to the node that belongs to it."""

    def __init__(self, client: socket.socket, address: Address) -> None:
        family, kind, protocol, _name, place = address
        self.client, self.server = client, socket.socket(family, kind, protocol)
        self._flows = _Flow(client, self.server), _Flow(self.server, client)
        self._is_connected = self._is_broken = False
        for end in (self.client, self.server):
            end.setblocking(False)
            # A small message must not wait for the answer to the last one.
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.server.connect_ex(place) not in (0, errno.EINPROGRESS):
            self._is_broken = True

    @property
    def is_over(self) -> bool:
        return self._is_broken or all(flow.is_over for flow in self._flows)

    def move(self, pipes: _Pipes) -> bool:
        """Whether there may be more to move at once."""
        try:
            if not self._is_connected and not self._connect():
                return False
            has_more = [flow.move(pipes) for flow in self._flows]
        except OSError:
            self._is_broken = True
            return False
        return any(has_more)

    def _connect(self) -> bool:
        if problem := self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(problem, "cannot connect")
        try:
            self.server.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            return False
        self._is_connected = True
        return True

    def close(self, pipes: _Pipes) -> None:
        for flow in self._flows:
            flow.close(pipes)
        self.client.close()
        self.server.close()
