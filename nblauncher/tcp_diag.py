"""What the kernel knows about TCP connections: whose the other end is when it is on this host, and ending one.

Linux's sock_diag over netlink: looking is allowed to everybody, ending is root's. Sources: sock_diag(7),
linux/inet_diag.h, linux/tcp.h (struct tcp_info).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x01, 0x04, 0x300
_ESTABLISHED, _LISTEN = 1, 10
_CONNECTED = 1 << _ESTABLISHED
_INFO = 2
"""INET_DIAG_INFO, as an extension (1 << 1) and as an attribute."""

_HEADER = struct.Struct("=IHHII")
_REQUEST_BODY = struct.Struct("=BBBBI")
_ID = struct.Struct("!HH16s16s")
_REST = struct.Struct("=I8s")
_MESSAGE = struct.Struct("=BBBB48s5I")
_ATTRIBUTE = struct.Struct("=HH")
_BYTES_ACKED = 120
"""Offset of tcpi_bytes_acked in struct tcp_info (Linux 4.1)."""

_MAPPED = b"\0" * 10 + b"\xff" * 2
_PATIENCE = 2.0
_ANY_COOKIE = b"\xff" * 8

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Connection:
    """One end of an established connection on this host. Addresses are packed, 4 or 16 bytes."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    uid: int
    sent: int
    """Bytes that the other end has acknowledged; 0 when that was not asked."""
    name: bytes
    """By which the kernel finds it again: family, addresses, cookie."""


def owner(local: Address, remote: Address) -> int | None:
    """The uid whose socket has these two ends, when it is one of this host's; None when there is none or the kernel
    does not say.
    """
    source, target = (ipaddress.ip_address(one[0].partition("%")[0]) for one in (local, remote))
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    name = _ID.pack(local[1], remote[1], source.packed, target.packed)
    body = _REQUEST_BODY.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFF) + name + _REST.pack(0, _ANY_COOKIE)
    try:
        for kind, content in _asked(_BY_FAMILY, _REQUEST, body):
            if kind == _BY_FAMILY:
                _family, state, _timer, _retransmits, found, _expires, _in, _out, uid, _inode = _MESSAGE.unpack_from(
                    content
                )
                # Without such a connection the kernel answers with whoever listens on the port.
                return uid if state != _LISTEN and _ID.unpack_from(found)[:2] == (local[1], remote[1]) else None
    except OSError:
        return None
    return None


def connections(*, with_sent: bool = False) -> Iterator[Connection]:
    """All established ones of this host, both ends of those that stay on it. OSError when the kernel does not say."""
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _REQUEST_BODY.pack(family, socket.IPPROTO_TCP, _INFO if with_sent else 0, 0, _CONNECTED)
        body += _ID.pack(0, 0, b"", b"") + _REST.pack(0, _ANY_COOKIE)
        for kind, content in _asked(_BY_FAMILY, _REQUEST | _DUMP, body):
            if kind == _BY_FAMILY:
                yield _connection(content)


def end(connection: Connection) -> None:
    """Both ends hear a reset. Root only; OSError, also where the kernel was built without it."""
    family = connection.name[:1]
    body = family + _REQUEST_BODY.pack(0, socket.IPPROTO_TCP, 0, 0, 0xFFF)[1:] + connection.name[1:]
    for _kind, _content in _asked(_DESTROY, _REQUEST | _ACK, body):
        continue


def _connection(content: bytes) -> Connection:
    family, _state, _timer, _retransmits, name, _expires, _in, _out, uid, _inode = _MESSAGE.unpack_from(content)
    local_port, remote_port, local, remote = _ID.unpack_from(name)
    length = 4 if family == socket.AF_INET else 16
    return Connection(
        _plain(local[:length]),
        local_port,
        _plain(remote[:length]),
        remote_port,
        uid,
        _sent(content),
        bytes([family]) + name,
    )


def _plain(address: bytes) -> bytes:
    """A v4 address that is written as a v6 one is a v4 address."""
    return address[12:] if address.startswith(_MAPPED) else address


def _sent(content: bytes) -> int:
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, at)
        if kind == _INFO and length >= _ATTRIBUTE.size + _BYTES_ACKED + 8:
            return int(struct.unpack_from("=Q", content, at + _ATTRIBUTE.size + _BYTES_ACKED)[0])
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return 0


def _asked(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """The kernel's answers: kind and content. OSError for the one that says no."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_PATIENCE)
        link.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            answer = link.recv(1 << 20)
            at = 0
            while at + _HEADER.size <= len(answer):
                length, found, _flags, _sequence, _port = _HEADER.unpack_from(answer, at)
                content = answer[at + _HEADER.size : at + length]
                at += (max(length, _HEADER.size) + 3) & ~3
                if found == _DONE:
                    return
                if found == _ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield found, content
            if not flags & _DUMP:
                return
            if not answer:
                raise OSError(errno.EIO, "the kernel said nothing")
