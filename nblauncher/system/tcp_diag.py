"""What the kernel knows about TCP connections: the account at the other end if that is on this host, and how many bytes
came through so far. Root can close any process's connection.

Linux's sock_diag over netlink, which any account may query. Sources: sock_diag(7), linux/inet_diag.h, linux/tcp.h,
ss(8) for --kill (CONFIG_INET_DIAG_DESTROY).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x01, 0x04, 0x300
_ESTABLISHED, _CLOSE_WAIT, _LISTEN = 1, 8, 10
_ANY_STATE = 0xFFF
_INFO = 2
_LAST_DATA_RECEIVED, _BYTES_RECEIVED = 52, 128
"""Offsets in struct tcp_info: milliseconds ago (u32), and u64."""
_MAPPED = bytes(10) + b"\xff\xff"
"""The beginning of a v4 address in the v6 table."""
_ANY_COOKIE = b"\xff" * 8
_PATIENCE = 2.0

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_QUESTION = struct.Struct("=BBBBI")
_ENDS = struct.Struct("!HH16s16s")
_REST = struct.Struct("=I8s")
_ANSWER = struct.Struct("=BBBB48s5I")

_PORTS = struct.Struct("!4xHH")
"""The local and the remote port in an answer."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Connection:
    """One end of an open connection: bytes that came in so far, and seconds since the last of them (or since it was
    accepted).
    """

    local: Address
    remote: Address
    received: int
    silent: float
    identity: bytes
    """The kernel's, with a cookie: it does not match a later connection with the same ends."""
    family: int


def owner(local: Address, remote: Address) -> int | None:
    """The uid of the socket with these two ends; None if it is not on this host, or the kernel does not say."""
    source, target = (ipaddress.ip_address(address[0].partition("%")[0]) for address in (local, remote))
    if source.version != target.version:
        return None
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE)
    question += _ENDS.pack(local[1], remote[1], source.packed, target.packed) + _REST.pack(0, _ANY_COOKIE)
    try:
        answer = _query(question)
    except OSError:
        return None
    _family, state, _timer, _retransmits, ends, _expires, _in, _out, uid, _inode = _ANSWER.unpack_from(answer)
    # Without such a connection the kernel answers with the socket that listens on the port.
    is_it = state != _LISTEN and _ENDS.unpack_from(ends)[:2] == (local[1], remote[1])
    return int(uid) if is_it else None


def connections(ports: Collection[int]) -> tuple[list[Connection], dict[tuple[Address, Address], int]]:
    """The open connections to these ports of the host; for those that come from the host itself, the uid by the
    client's and our address. OSError.
    """
    found: list[Connection] = []
    owners: dict[tuple[Address, Address], int] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in _dumped(family):
            local_port, remote_port = _PORTS.unpack_from(answer)
            if local_port in ports:
                found.append(_connection(answer))
            if remote_port in ports:
                ends = _ANSWER.unpack_from(answer)[4]
                owners[_addresses(family, ends)] = _ANSWER.unpack_from(answer)[8]
    return found, owners


def end(to_end: Iterable[Connection]) -> None:
    """Reset these connections, for both ends, unless they are gone already. Runs as root. OSError where the kernel
    cannot (EOPNOTSUPP) or root may not (EPERM, in a container).
    """
    with _link() as link:
        for connection in to_end:
            question = _QUESTION.pack(connection.family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + connection.identity
            link.send(_message(_DESTROY, _REQUEST | _ACKNOWLEDGE, question))
            try:
                _checked(link.recv(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise


def _dumped(family: int) -> Iterator[bytes]:
    """An answer with struct tcp_info for each open connection."""
    states = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, states)
    question += bytes(_ENDS.size) + _REST.pack(0, _ANY_COOKIE)
    with _link() as link:
        link.send(_message(_BY_FAMILY, _REQUEST | _DUMP, question))
        while True:
            received = link.recv(1 << 17)
            while received:
                length, kind, *_ = _HEADER.unpack_from(received)
                if kind == _DONE:
                    return
                yield _checked(received[:length])
                received = received[(length + 3) & ~3 :]


def _connection(answer: bytes) -> Connection:
    family, *_, ends, _expires, _in, _out, _uid, _inode = _ANSWER.unpack_from(answer)
    local, remote = _addresses(family, ends)
    info = _attribute(answer[_ANSWER.size :], _INFO)
    if len(info) < _BYTES_RECEIVED + 8:
        raise OSError(errno.EOPNOTSUPP, "the kernel does not report the bytes of a connection")
    silent = struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)[0] / 1000
    received = struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0]
    return Connection(local, remote, received, silent, ends, family)


def _addresses(family: int, ends: bytes) -> tuple[Address, Address]:
    """The local one and the remote one; v4 is v4, also in the v6 table."""
    local_port, remote_port, *packed = _ENDS.unpack_from(ends)
    texts = []
    for address in packed:
        if family == socket.AF_INET:
            texts.append(socket.inet_ntop(socket.AF_INET, address[:4]))
        elif address.startswith(_MAPPED):
            texts.append(socket.inet_ntop(socket.AF_INET, address[12:]))
        else:
            texts.append(socket.inet_ntop(socket.AF_INET6, address))
    return (texts[0], local_port), (texts[1], remote_port)


def _attribute(attributes: bytes, wanted: int) -> bytes:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == wanted:
            return attributes[_ATTRIBUTE.size : length]
        attributes = attributes[max((length + 3) & ~3, _ATTRIBUTE.size) :]
    return b""


def _query(question: bytes) -> bytes:
    """The kernel's answer. OSError when it has none."""
    with _link() as link:
        link.send(_message(_BY_FAMILY, _REQUEST, question))
        return _checked(link.recv(1 << 16))


@contextmanager
def _link() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_PATIENCE)
        yield link


def _message(kind: int, flags: int, content: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(content), kind, flags, 1, 0) + content


def _checked(message: bytes) -> bytes:
    """The content of a message. OSError when it is an error; an acknowledgement is error 0."""
    _length, kind, _flags, _sequence, _port = _HEADER.unpack_from(message)
    if kind == _ERROR and (number := -struct.unpack_from("=i", message, _HEADER.size)[0]):
        raise OSError(number, os.strerror(number))
    return message[_HEADER.size :]
