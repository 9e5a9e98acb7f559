"""Redirects plain HTTP on a TLS port to https instead of breaking the connection."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Any

from tornado import httputil
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop

from nblauncher.system import first_byte

PATIENCE = 10.0
"""Seconds within which the first byte must arrive."""

_MAX_REQUEST = 8 << 10
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_TARGET = re.compile(r"/[!-~]*")


class PlainHttpRedirect(HTTPServer):
    """An HTTPServer with TLS that looks at the first byte of each connection before it chooses the protocol.

    Looking never blocks; a silent connection is closed after PATIENCE seconds.
    """

    _plain: HTTPServer

    def initialize(self, *arguments: Any, **keywords: Any) -> None:
        super().initialize(*arguments, **keywords)
        self._plain = HTTPServer(
            _redirect, no_keep_alive=True, idle_connection_timeout=PATIENCE, max_header_size=_MAX_REQUEST
        )

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        if self.ssl_options is None:
            super()._handle_connection(connection, address)
            return
        _FirstByte(self, connection, address)

    def take(self, connection: socket.socket, address: Any, *, is_tls: bool) -> None:
        """The connection's first byte has arrived."""
        if is_tls:
            super()._handle_connection(connection, address)
        else:
            self._plain._handle_connection(connection, address)


class _FirstByte:
    """Waits for a connection's first byte without reading it."""

    def __init__(self, server: PlainHttpRedirect, connection: socket.socket, address: Any) -> None:
        self._server, self._connection, self._address = server, connection, address
        self._loop = IOLoop.current()
        self._deadline = self._loop.call_later(PATIENCE, self._give_up)
        self._loop.add_handler(connection, self._look, IOLoop.READ)

    def _look(self, connection: socket.socket, events: int) -> None:
        try:
            first = first_byte.peek(connection)
        except BlockingIOError:
            return
        if not first:
            self._give_up()
            return
        self._stop_looking()
        try:
            self._server.take(connection, self._address, is_tls=first_byte.is_tls(first))
        except (OSError, ssl.SSLError):
            # The client has left.
            connection.close()

    def _give_up(self) -> None:
        self._stop_looking()
        self._connection.close()

    def _stop_looking(self) -> None:
        self._loop.remove_timeout(self._deadline)
        self._loop.remove_handler(self._connection)


def _redirect(request: httputil.HTTPServerRequest) -> None:
    """Redirect to the same address under https, but repeat nothing that could lead elsewhere."""
    location = redirect_target(request.headers.get("Host", ""), request.uri or "")
    if location is None:
        line, body = httputil.ResponseStartLine("HTTP/1.1", 400, "Bad Request"), b"This port speaks https.\n"
        headers = httputil.HTTPHeaders()
    else:
        line, body = httputil.ResponseStartLine("HTTP/1.1", 307, "Temporary Redirect"), b""
        headers = httputil.HTTPHeaders({"Location": location})
    headers.update({"Content-Length": str(len(body)), "Content-Type": "text/plain", "Connection": "close"})
    connection = request.connection
    if connection is not None:
        connection.write_headers(line, headers, body)
        connection.finish()


def redirect_target(host: str, target: str) -> str | None:
    """Where a plain request is redirected: the same host, port and path under https. None if they are invalid."""
    if not _HOST.fullmatch(host) or not _TARGET.fullmatch(target) or target.startswith("//"):
        return None
    return f"https://{host}{target}"
