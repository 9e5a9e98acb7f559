"""The front page's door: who may stay connected, and for how long (DESIGN promise 9).

Tornado parses and answers; accepting, the TLS handshake's deadline and the number of connections are ours, because
tornado's header timeout starts only when the handshake is over and its accept loop does not survive EMFILE.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from enum import IntEnum
from typing import Any, cast

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import Application

from nblauncher.clients import Client, Clients
from nblauncher.web.accepting import Listener

log = logging.getLogger(__name__)

ARRIVAL = 10.0
"""Seconds from connecting until TLS handshake and request header are complete."""

SPARED = 2.0
"""Seconds since it was last heard for which one that arrives does not give way to a newcomer of the same client."""

IDLE = 10.0
BODY = 10.0
ANSWER = 60.0

MAX_HEADER = 32 << 10
MAX_BODY = 8 << 10
MAX_CONNECTIONS = 1000
MAX_PER_ADDRESS = 500
"""A whole classroom can be one NAT address, with two connections per browser. On this host, an account's."""

_TLS_HANDSHAKE = 0x16
_SPARE_DESCRIPTORS = 64


class Stage(IntEnum):
    """What a connection is doing; the lower, the sooner it is given up for a newcomer (see `Visit.worth`)."""

    DELAYED = 0  # a wrong guess waits for its answer
    IDLE = 1  # between two requests
    ARRIVING = 2  # handshake, header or body are not complete
    BUSY = 3  # an answer is being made


class Visit:
    """One connection, from accept to close."""

    def __init__(self, door: Door, connection: socket.socket, address: Any) -> None:
        self.client = door.client_of(connection, address)
        self.stage = Stage.ARRIVING
        self._door = door
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._connection: socket.socket | None = connection
        self._stream: IOStream | None = None
        self._heard = door.clock()
        self._deadline = self._loop.call_later(ARRIVAL, self.end)

    def begin(self) -> None:
        """Find out which protocol the client speaks: a TLS record begins with 0x16, plain HTTP with a letter."""
        if self._connection is not None:
            self._loop.add_reader(self._connection, self._look)

    def enter(self, stage: Stage, seconds: float) -> None:
        """Do something else from now on, for so many seconds at most."""
        self._deadline.cancel()
        self.stage = stage
        self._deadline = self._loop.call_later(seconds, self.end)

    def heard(self) -> None:
        """The client sent something, or is allowed to be silent from now on."""
        self._heard = self._door.clock()

    @property
    def is_overdue(self) -> bool:
        """It arrives and has said nothing for a while; being accepted counts as the first word."""
        return self.stage is Stage.ARRIVING and self._door.clock() - self._heard > SPARED

    @property
    def may_give_way(self) -> bool:
        """Whether a newcomer of the same client takes its place."""
        return self.stage is not Stage.ARRIVING or self.is_overdue

    @property
    def worth(self) -> tuple[bool, Stage, bool]:
        """The least is given up first: the overdue, then by stage, and there the silent before those who speak."""
        return not self.is_overdue, self.stage, self._stream is not None

    def end(self) -> None:
        """Disconnect at once."""
        if self._stream is not None:
            self._stream.close()
        elif self._connection is not None:
            self._loop.remove_reader(self._connection)
            self._connection.close()
            self.closed()

    def closed(self) -> None:
        """The descriptor is gone."""
        self._deadline.cancel()
        self._connection = self._stream = None
        self._door.forget(self)

    def _look(self) -> None:
        if self._connection is None:
            return
        try:
            first = self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        self._loop.remove_reader(self._connection)
        if not first:
            self.end()
            return
        self.heard()
        self._serve(is_tls=self._door.tls is not None and first[0] == _TLS_HANDSHAKE)

    def _serve(self, *, is_tls: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if is_tls and self._door.tls is not None:
                wrapped = self._door.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                self._connection = wrapped
                self._stream = _TlsStream(wrapped, visit=self)
            else:
                self._stream = _Stream(connection, visit=self)
        except OSError:
            # The client left between accept and here (wrap_socket calls getpeername).
            connection.close()
            self.closed()
            return
        self._door.server.handle_stream(self._stream, self._address)


class _Stream(IOStream):
    """Tells the visit what it hears, and that it is closed."""

    def __init__(self, connection: socket.socket, *, visit: Visit) -> None:
        self.visit = visit
        super().__init__(connection, max_buffer_size=2 * MAX_HEADER, read_chunk_size=4096)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        count = super().read_from_fd(buf)
        if count:
            self.visit.heard()
        return count

    def close_fd(self) -> None:
        super().close_fd()
        self.visit.closed()


class _TlsStream(_Stream, SSLIOStream):
    pass


def visit_of(request_connection: httputil.HTTPConnection) -> Visit:
    """The visit to which a request belongs."""
    stream = cast(HTTP1Connection, request_connection).stream
    return cast(_Stream, stream).visit


class _Watched(httputil.HTTPMessageDelegate):
    """Tells the visit how far a request has come."""

    def __init__(self, inner: httputil.HTTPMessageDelegate, visit: Visit) -> None:
        self._inner = inner
        self._visit = visit

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        self._visit.heard()
        self._visit.enter(Stage.ARRIVING, BODY)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._visit.enter(Stage.BUSY, ANSWER)
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()


class _Reception(httputil.HTTPServerConnectionDelegate):
    def __init__(self, application: Application) -> None:
        self._application = application

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        visit = visit_of(request_conn)
        if visit.stage is not Stage.ARRIVING:
            visit.enter(Stage.IDLE, IDLE)
        return _Watched(self._application.start_request(server_conn, request_conn), visit)


class Door:
    """Serves the application on inherited listening sockets, over TLS when there is a context.

    Whoever speaks plain HTTP to a TLS port reaches the application too, which sees the protocol and redirects.
    """

    def __init__(
        self,
        application: Application,
        tls: ssl.SSLContext | None,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_per_address: int = MAX_PER_ADDRESS,
        is_behind_proxy: bool = False,
        clients: Clients | None = None,
        clock: Callable[[], float] = time.monotonic,
        keeps_connections: bool = True,
    ) -> None:
        """Behind a proxy everybody comes from one place, and the proxy counts addresses."""
        self.tls = tls
        self.clock = clock
        if is_behind_proxy:
            max_per_address = max_connections
        self.server = HTTPServer(
            _Reception(application),
            no_keep_alive=not keeps_connections,
            idle_connection_timeout=IDLE,
            body_timeout=BODY,
            max_header_size=MAX_HEADER,
            max_body_size=MAX_BODY,
            max_buffer_size=2 * MAX_HEADER,
            xheaders=is_behind_proxy,
        )
        self._clients = clients or Clients()
        self._max_connections = min(max_connections, _descriptors() - _SPARE_DESCRIPTORS)
        self._max_per_address = max_per_address
        self._visits: dict[str, dict[Visit, None]] = {}
        self._count = 0
        self._listeners: list[Listener] = []
        self._last_word = float("-inf")

    def open(self, sockets: Iterable[socket.socket]) -> list[Listener]:
        """Let in whoever connects there; each of what is returned can be closed by itself."""
        opened = [Listener(one, self._welcome, self._make_room) for one in sockets]
        self._listeners = [one for one in self._listeners if not one.is_closed] + opened
        return opened

    def close(self) -> None:
        """Let nobody in any more and end every visit."""
        for listener in self._listeners:
            listener.close()
        for visit in [visit for visits in self._visits.values() for visit in visits]:
            visit.end()

    def __len__(self) -> int:
        return self._count

    def client_of(self, connection: socket.socket, address: Any) -> Client:
        """Whom a connection counts for."""
        if not isinstance(address, tuple):
            return Client("the proxy", "the proxy")
        return self._clients.of(connection, str(address[0]))

    def forget(self, visit: Visit) -> None:
        theirs = self._visits.get(visit.client.share, {})
        if visit in theirs:
            del theirs[visit]
            self._count -= 1
        if not theirs:
            self._visits.pop(visit.client.share, None)

    def _welcome(self, connection: socket.socket, address: Any) -> None:
        visit = Visit(self, connection, address)
        theirs = self._visits.setdefault(visit.client.share, {})
        theirs[visit] = None
        self._count += 1
        # One that is just arriving is spared: clients that come again and again would keep each other from ever being
        # heard, and us busy with their handshakes. Until those have arrived there may be more than the limit.
        while len(theirs) > self._max_per_address:
            if not self._end_one_of([one for one in theirs if one.may_give_way], but=visit):
                break
        if self._count > self._max_connections:
            self._make_room(but=visit)
        visit.begin()

    def _make_room(self, but: Visit | None = None) -> bool:
        """End a visit of the address that has most of them; whether there was one."""
        if not self._visits:
            return False
        return self._end_one_of(max(self._visits.values(), key=len), but)

    def _end_one_of(self, visits: Collection[Visit], but: Visit | None) -> bool:
        # The dict is in order of arrival and `min` takes the first of equals: the oldest of the least useful.
        victim = min((visit for visit in visits if visit is not but), key=lambda visit: visit.worth, default=None)
        if victim is None:
            return False
        if (now := self.clock()) - self._last_word > ARRIVAL:
            self._last_word = now
            log.warning(
                "too many connections (%d); the oldest idle ones of %s are ended", self._count, victim.client.share
            )
        victim.end()
        return True


def _descriptors() -> int:
    """How many descriptors we may have: the soft limit is raised to 4,096 where the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
