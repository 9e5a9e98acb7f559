"""The host's TCP sockets as the kernel lists them (proc_pid_net(5)): unlike psutil, this asks no process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class TcpSocket:
    port: int
    is_listening: bool
    uid: int
    inode: int
    """0 for a connection that no process has any more."""


def sockets() -> Iterator[TcpSocket]:
    """IPv4 and IPv6, of all processes."""
    for table in _TABLES:
        try:
            with open(table, encoding="ascii") as stream:
                lines = stream.readlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            _number, local, _remote, state, _queues, _timer, _retransmits, uid, _timeout, inode = line.split()[:10]
            yield TcpSocket(int(local.rpartition(":")[2], 16), state == _LISTEN, int(uid), int(inode))
