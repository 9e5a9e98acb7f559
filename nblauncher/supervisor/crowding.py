"""Nobody fills the proxy with connections that ask for nothing.

nginx counts a connection for `limit_conn` when its header is complete; one that is silent, or stops in the middle of
its TLS handshake, counts for nobody and holds a place for ten seconds. So the supervisor looks itself, in the kernel's
tables, and ends what is too much of one client's (see nblauncher/clients.py), which nginx sees as a client that left.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from nblauncher import tcp_diag
from nblauncher.clients import MAX_CONNECTIONS, Clients
from nblauncher.supervisor.loop import Loop, Timer
from nblauncher.tcp_diag import Connection

log = logging.getLogger(__name__)

MAX_QUIET = 500
"""Quiet connections of one client's."""

MAX_QUIET_OF_ALL = 4000
"""Half of what one of nginx's workers can have. Above it the greatest crowds shrink first."""

QUIET_BYTES = 2 << 10
"""A handshake and half a header: what is below has asked for little."""

SPARED = 2.0
"""Seconds of silence after which a connection is quiet; a handshake and a header take less."""

PAUSE = 1.0
_SHARE_OF_TIME = 9
"""A look is followed by so many times what it took."""


class Crowding:
    """Looks again and again while it has ports."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._ports: frozenset[int] = frozenset()
        self._timer: Timer | None = None
        self._owners: dict[tuple[tcp_diag.Address, tcp_diag.Address], int] = {}
        self._clients = Clients(owner=lambda remote, local: self._owners.get((remote, local)))

    def watch(self, ports: Collection[int]) -> None:
        """Look after these ports from now on; with none it rests."""
        self._ports = frozenset(ports)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.later(PAUSE, self._look) if ports else None

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._end_what_is_too_much()
        except OSError as error:
            self._timer = None
            log.warning(
                "the connections of one client that ask for nothing are not limited: the kernel refuses (%s)", error
            )
            return
        self._timer = self._loop.later(max(PAUSE, _SHARE_OF_TIME * (time.monotonic() - began)), self._look)

    def _end_what_is_too_much(self) -> None:
        if open_connections() <= MAX_QUIET:
            return  # nearly always, and that costs two small files
        found, self._owners = tcp_diag.connections(self._ports)
        shares: dict[str, list[Connection]] = defaultdict(list)
        for one in found:
            shares[self._clients.at(one.remote, one.local).share].append(one)
        surplus = too_much(shares.values())
        if surplus:
            tcp_diag.end(surplus)
            log.warning("%d of %d connections were ended: too many that ask for nothing", len(surplus), len(found))


def too_much(shares: Collection[Collection[Connection]]) -> list[Connection]:
    """What shall be ended, given each client's connections."""
    quiet = [[one for one in share if _is_quiet(one)] for share in shares]
    limit = MAX_QUIET
    while limit > 1 and sum(min(len(share), limit) for share in quiet) > MAX_QUIET_OF_ALL:
        limit //= 2
    ended = [one for share in quiet for one in _beyond(limit, share)]
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


def _is_quiet(one: Connection) -> bool:
    return one.received <= QUIET_BYTES and one.silent >= SPARED


def _beyond(limit: int, several: Iterable[Connection]) -> list[Connection]:
    """All but so many, those first that sent least and are silent for longest."""
    worst_first = sorted(several, key=lambda one: (one.received, -one.silent))
    return worst_first[: max(0, len(worst_first) - limit)]
