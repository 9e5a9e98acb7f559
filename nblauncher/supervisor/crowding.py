"""No client can fill the proxy with connections that send no request.

nginx counts a connection for `limit_conn` when its header is complete; one that is silent, or stops in the middle of
its TLS handshake, is not counted and holds a place for ten seconds. So the supervisor looks at the kernel's tables
itself and ends one client's excess connections (see nblauncher.system.clients); to nginx these clients have left.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from nblauncher.supervisor.loop import Loop, Timer
from nblauncher.system import tcp_diag
from nblauncher.system.clients import MAX_CONNECTIONS, Clients
from nblauncher.system.tcp_diag import Connection

log = logging.getLogger(__name__)

MAX_QUIET = 500
"""Quiet connections of one client."""

MAX_QUIET_OF_ALL = 4000
"""Half of what one of nginx's workers can have. Above it the greatest crowds shrink first."""

QUIET_BYTES = 2 << 10
"""A handshake and half a header: a connection that received less has requested nothing yet."""

SPARED = 2.0
"""Seconds of silence after which a connection is quiet; a handshake and a header take less."""

PAUSE = 1.0
_SHARE_OF_TIME = 9
"""The pause after a look is this many times what the look took."""


class Crowding:
    """Looks at regular intervals while it has ports."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._ports: frozenset[int] = frozenset()
        self._timer: Timer | None = None
        self._owners: dict[tuple[tcp_diag.Address, tcp_diag.Address], int] = {}
        self._clients = Clients(owner=lambda remote, local: self._owners.get((remote, local)))

    def watch(self, ports: Collection[int]) -> None:
        """Watch these ports from now on; with none it stops."""
        self._ports = frozenset(ports)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.later(PAUSE, self._look) if ports else None

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._end_excess()
        except OSError as error:
            self._timer = None
            log.warning("connections that send no request are not limited: the kernel refuses (%s)", error)
            return
        self._timer = self._loop.later(max(PAUSE, _SHARE_OF_TIME * (time.monotonic() - began)), self._look)

    def _end_excess(self) -> None:
        if open_connections() <= MAX_QUIET:
            return  # nearly always, and that costs two small files
        found, self._owners = tcp_diag.connections(self._ports)
        shares: dict[str, list[Connection]] = defaultdict(list)
        for connection in found:
            shares[self._clients.at(connection.remote, connection.local).share].append(connection)
        surplus = too_many(shares.values())
        if surplus:
            tcp_diag.end(surplus)
            log.warning("ended %d of %d connections: too many of them send no request", len(surplus), len(found))


def too_many(shares: Collection[Collection[Connection]]) -> list[Connection]:
    """The connections to end, given each client's."""
    quiet = [list(filter(_is_quiet, share)) for share in shares]
    limit = MAX_QUIET
    while limit > 1 and sum(min(len(share), limit) for share in quiet) > MAX_QUIET_OF_ALL:
        limit //= 2
    ended = [connection for share in quiet for connection in _beyond(limit, share)]
    for share in shares:
        ended += _beyond(MAX_CONNECTIONS, set(share).difference(ended))
    return ended


def open_connections() -> int:
    """Of the whole host, listening sockets included. Source: proc_pid_net(5), sockstat. OSError."""
    return sum(_in_use(Path(f"/proc/self/net/{name}")) for name in ("sockstat", "sockstat6"))


def _in_use(table: Path) -> int:
    if not table.exists():
        return 0  # a kernel without IPv6
    words = next((line.split() for line in table.read_text().splitlines() if line.startswith("TCP")), [])
    return int(words[words.index("inuse") + 1]) if "inuse" in words else 0


def _is_quiet(connection: Connection) -> bool:
    return connection.received <= QUIET_BYTES and connection.silent >= SPARED


def _beyond(limit: int, several: Iterable[Connection]) -> list[Connection]:
    """All but `limit`: first those that sent least and have been silent for longest."""
    worst_first = sorted(several, key=lambda connection: (connection.received, -connection.silent))
    return worst_first[: max(0, len(worst_first) - limit)]
