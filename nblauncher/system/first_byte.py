"""Which protocol a new connection speaks: a TLS record begins with 0x16, plain HTTP with a letter."""

from __future__ import annotations

import socket

_TLS_HANDSHAKE = 0x16


def peek(connection: socket.socket) -> bytes:
    """The first byte, left unread; empty when the client has gone. BlockingIOError when none has come yet."""
    try:
        return connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        raise
    except OSError:
        return b""


def is_tls(first: bytes) -> bool:
    return first[0] == _TLS_HANDSHAKE
