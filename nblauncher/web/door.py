"""The front page's door: which clients may stay connected, and for how long (docs/security.md, promise 9).

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

from nblauncher.system import first_byte
from nblauncher.system.clients import Client, Clients
from nblauncher.web.accepting import Listener

log = logging.getLogger(__name__)

ARRIVAL = 10.0
"""Seconds from the connection until TLS handshake and request header are complete."""

SPARED = 2.0
"""Seconds since its last byte for which an arriving connection does not give way to a newer one of its client."""

IDLE = 10.0
BODY = 10.0
ANSWER = 60.0

MAX_HEADER = 32 << 10
MAX_BODY = 8 << 10
MAX_CONNECTIONS = 1000
MAX_PER_ADDRESS = 500
"""A whole classroom can be one NAT address, with two connections per browser. On this host, an account's."""

_SPARE_DESCRIPTORS = 64


class Stage(IntEnum):
    """What a connection is doing; the lower, the sooner it gives way to a newcomer (see `Visit.worth`)."""

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
        self._last_byte = door.clock()
        self._deadline = self._loop.call_later(ARRIVAL, self.end)

    def begin(self) -> None:
        """Find out which protocol the client speaks."""
        if self._connection is not None:
            self._loop.add_reader(self._connection, self._look)

    def enter(self, stage: Stage, seconds: float) -> None:
        """Enter another stage, for so many seconds at most."""
        self._deadline.cancel()
        self.stage = stage
        self._deadline = self._loop.call_later(seconds, self.end)

    def touch(self) -> None:
        """The client sent something, or may be silent from now on."""
        self._last_byte = self._door.clock()

    @property
    def is_overdue(self) -> bool:
        """It is arriving and has sent nothing for a while; the time counts from its acceptance."""
        return self.stage is Stage.ARRIVING and self._door.clock() - self._last_byte > SPARED

    @property
    def may_give_way(self) -> bool:
        """Whether a newcomer of the same client takes its place."""
        return self.stage is not Stage.ARRIVING or self.is_overdue

    @property
    def worth(self) -> tuple[bool, Stage, bool]:
        """The least is ended first: the overdue, then by stage, and within a stage those that have sent nothing."""
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
            first = first_byte.peek(self._connection)
        except BlockingIOError:
            return
        self._loop.remove_reader(self._connection)
        if not first:
            self.end()
            return
        self.touch()
        self._serve(is_tls=self._door.tls is not None and first_byte.is_tls(first))

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
    """Reports to the visit that bytes arrived, and that it is closed."""

    def __init__(self, connection: socket.socket, *, visit: Visit) -> None:
        self.visit = visit
        super().__init__(connection, max_buffer_size=2 * MAX_HEADER, read_chunk_size=4096)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        count = super().read_from_fd(buf)
        if count:
            self.visit.touch()
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
    """Reports to the visit which part of a request has arrived."""

    def __init__(self, inner: httputil.HTTPMessageDelegate, visit: Visit) -> None:
        self._inner = inner
        self._visit = visit

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        self._visit.touch()
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

    Plain HTTP on a TLS port reaches the application too, which sees the protocol and redirects.
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
        """Behind a proxy all connections come from one place, and the proxy counts addresses."""
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
        """Accept connections there. Each returned listener can be closed by itself."""
        opened = [Listener(listening, self._welcome, self._make_room) for listening in sockets]
        self._listeners = [listener for listener in self._listeners if not listener.is_closed] + opened
        return opened

    def close(self) -> None:
        """Accept no more connections, and end every visit."""
        for listener in self._listeners:
            listener.close()
        for visit in [visit for visits in self._visits.values() for visit in visits]:
            visit.end()

    def __len__(self) -> int:
        return self._count

    def client_of(self, connection: socket.socket, address: Any) -> Client:
        """The client for which a connection counts."""
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
        # Arriving connections are spared: clients that keep reconnecting would prevent each other from ever being
        # answered, and keep us busy with handshakes. Until they have arrived there may be more than the limit.
        while len(theirs) > self._max_per_address:
            if not self._end_one_of([other for other in theirs if other.may_give_way], but=visit):
                break
        if self._count > self._max_connections:
            self._make_room(but=visit)
        visit.begin()

    def _make_room(self, but: Visit | None = None) -> bool:
        """End a visit of the address that has most of them. Returns whether there was one."""
        if not self._visits:
            return False
        return self._end_one_of(max(self._visits.values(), key=len), but)

    def _end_one_of(self, visits: Collection[Visit], but: Visit | None) -> bool:
        # The dict is in order of arrival and `min` takes the first of equals: the oldest one of the lowest worth.
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
    """How many descriptors we may have. Raises the soft limit to 4,096 if the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
