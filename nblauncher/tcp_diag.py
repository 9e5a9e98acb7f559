"""What the kernel knows about TCP connections: whose the other end is when it is on this host.

Linux's sock_diag over netlink, which everybody may ask. Sources: sock_diag(7), linux/inet_diag.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_ERROR = 2
_REQUEST = 0x01
_LISTEN = 10
_ANY_STATE = 0xFFF
_ANY_COOKIE = b"\xff" * 8
_PATIENCE = 2.0

_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ENDS = struct.Struct("!HH16s16s")
_REST = struct.Struct("=I8s")
_ANSWER = struct.Struct("=BBBB48s5I")

Address = tuple[str, int]


def owner(local: Address, remote: Address) -> int | None:
    """The uid whose socket has these two ends, when it is one of this host's; None when there is none or the kernel
    does not say.
    """
    source, target = (ipaddress.ip_address(one[0].partition("%")[0]) for one in (local, remote))
    if source.version != target.version:
        return None
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE)
    question += _ENDS.pack(local[1], remote[1], source.packed, target.packed) + _REST.pack(0, _ANY_COOKIE)
    try:
        answer = _asked(question)
    except OSError:
        return None
    _family, state, _timer, _retransmits, ends, _expires, _in, _out, uid, _inode = _ANSWER.unpack_from(answer)
    # Without such a connection the kernel answers with whoever listens on the port.
    is_it = state != _LISTEN and _ENDS.unpack_from(ends)[:2] == (local[1], remote[1])
    return int(uid) if is_it else None


def _asked(question: bytes) -> bytes:
    """The kernel's answer. OSError when it has none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_PATIENCE)
        link.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST, 1, 0) + question)
        answer = link.recv(1 << 16)
    _length, kind, _flags, _sequence, _port = _HEADER.unpack_from(answer)
    if kind == _ERROR:
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        raise OSError(number, os.strerror(number))
    return answer[_HEADER.size :]
