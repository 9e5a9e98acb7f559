"""Which client a connection belongs to, so that one client cannot count as many: by address, on this host by account.

All of 127.0.0.0/8, ::1 and the host's own addresses are this host, which is one client for the throttling of wrong
guesses. For turns and connections each account of the host has its own share: a notebook that floods the front page
does not slow down another student's curl.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from nblauncher.system import tcp_diag

HERE = "this host"
MAX_CONNECTIONS = 2000
"""Of one client to a class's proxy, and with HTTP/2 requests at the same time. A whole classroom can be one NAT
address.
"""

_LOOK_AGAIN = 10.0
"""Seconds for which the host's addresses are remembered."""


@dataclass(frozen=True, slots=True)
class Client:
    """`group` remembers wrong guesses; `share` is what turns and connections are counted by."""

    group: str
    share: str


def address_group(address: str) -> str:
    """The group of an address: all loopback addresses are this host, a v4 address is its own group, a v6 address
    belongs to its /64 (one machine has all of it). A text that is not an address is its own group.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return HERE if parsed.is_loopback else str(ipaddress.ip_network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return HERE if parsed.is_loopback else str(parsed)


def own_addresses() -> frozenset[str]:
    """All addresses of the host's interfaces."""
    import psutil

    return frozenset(
        canonical(entry.address) for entries in psutil.net_if_addrs().values() for entry in entries if entry.address
    )


def canonical(address: str) -> str:
    """One spelling per address: without zone, v4 as v4."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class Clients:
    """`own` are the host's addresses and `owner` the account at the other end of a connection that stays on it."""

    def __init__(
        self,
        *,
        own: Callable[[], frozenset[str]] = own_addresses,
        owner: Callable[[tcp_diag.Address, tcp_diag.Address], int | None] = tcp_diag.owner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._survey, self._owner, self._clock = own, owner, clock
        self._own: frozenset[str] = frozenset()
        self._looked = float("-inf")

    def group(self, address: str) -> str:
        """As `address_group`, with the host's own addresses."""
        group = address_group(address)
        return HERE if group == HERE or canonical(address) in self._addresses() else group

    def of(self, connection: socket.socket, address: str) -> Client:
        """The client at the other end; `address` is used when the connection itself does not have one."""
        if connection.family == socket.AF_UNIX:
            return self.at((address, 0), None)
        try:
            return self.at(connection.getpeername()[:2], connection.getsockname()[:2])
        except OSError:
            return self.at((address, 0), None)  # the client left already

    def at(self, remote: tcp_diag.Address, local: tcp_diag.Address | None) -> Client:
        """The client that connected from `remote` to our `local`."""
        group = self.group(remote[0])
        if group != HERE or local is None:
            return Client(group, group)
        uid = self._owner(remote, local)
        return Client(HERE, share_of(uid))

    def _addresses(self) -> frozenset[str]:
        if self._clock() - self._looked > _LOOK_AGAIN:
            self._own, self._looked = self._survey(), self._clock()
        return self._own


def share_of(uid: int | None) -> str:
    """The share of an account of this host; unknown accounts have one together."""
    return HERE if uid is None else f"{HERE}, uid {uid}"
