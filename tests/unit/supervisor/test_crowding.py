"""Which connections are too much of one client's, and that the kernel's tables say what is decided by."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from nblauncher.supervisor import crowding
from nblauncher.supervisor.crowding import MAX_QUIET, MAX_QUIET_OF_ALL, QUIET_BYTES, SPARED, too_many
from nblauncher.system import tcp_diag
from nblauncher.system.clients import MAX_CONNECTIONS
from nblauncher.system.tcp_diag import Connection

OURS = ("192.0.2.7", 8000)


def connections(client: str, count: int, *, received: int = 0, silent: float = 5.0) -> list[Connection]:
    identity = f"{client} {received} {silent}".encode()
    return [Connection(OURS, (client, 20000 + number), received, silent, identity, 2) for number in range(count)]


def kept(*shares: list[Connection]) -> list[int]:
    """How many each client keeps."""
    ended = Counter(one.remote[0] for one in too_many(shares))
    return [len(share) - ended[share[0].remote[0]] for share in shares]


@pytest.mark.parametrize("count", [1, MAX_QUIET, MAX_QUIET + 1, 700, 14_000])
def test_a_client_keeps_so_many_connections_that_ask_for_nothing(count):
    assert kept(connections("eve", count)) == [min(count, MAX_QUIET)]


def test_one_clients_crowd_costs_other_clients_nothing():
    assert kept(connections("eve", 14_000), connections("ada", 40), connections("bob", 1)) == [MAX_QUIET, 40, 1]


@pytest.mark.parametrize(
    "newcomers", [{"silent": SPARED / 2}, {"received": QUIET_BYTES + 1}, {"received": QUIET_BYTES + 1, "silent": 0.0}]
)
def test_clients_that_send_or_have_just_connected_are_not_in_the_crowd(newcomers):
    honest = connections("nat", 400, **newcomers)
    share = [*connections("nat", MAX_QUIET + 300), *honest]
    ended = too_many([share])
    assert len(ended) == 300 and not set(ended) & set(honest)


def test_those_go_first_that_sent_least_and_then_those_that_are_silent_for_longest():
    half_a_header = connections("eve", 200, received=900, silent=9.0)
    new = connections("eve", 300, silent=3.0)
    old = connections("eve", 300, silent=8.0)
    assert set(too_many([[*half_a_header, *new, *old]])) == set(old)


def test_no_client_has_more_than_so_many_even_when_each_of_them_speaks():
    assert kept(connections("eve", 3 * MAX_CONNECTIONS, silent=0.1)) == [MAX_CONNECTIONS]


def test_many_crowds_together_leave_room_and_cost_small_clients_nothing():
    crowds = [connections(f"eve{number}", MAX_QUIET) for number in range(30)]
    left = kept(*crowds, connections("ada", 40))
    assert sum(left[:-1]) <= MAX_QUIET_OF_ALL and min(left[:-1]) >= MAX_QUIET_OF_ALL // 60 and left[-1] == 40


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "127.0.0.1")])
def listening(request) -> Iterator[tuple[socket.socket, str]]:
    """A listener, and the address of it that is connected to: v4, v6, and v4 at a listener for both."""
    family, address = request.param
    where = "" if family == socket.AF_INET6 else address
    with socket.create_server((where, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as one:
        yield one, address


def test_the_kernel_says_what_came_and_whose_the_other_end_is(listening):
    server, address = listening
    port = server.getsockname()[1]
    with socket.create_connection((address, port)) as client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"x" * 1000)
            assert accepted.recv(1000, socket.MSG_WAITALL)
            found, owners = tcp_diag.connections({port})
            assert [(one.local, one.remote[0], one.received) for one in found] == [((address, port), address, 1000)]
            assert 0 <= found[0].silent < 60
            assert set(owners) == {(found[0].remote, found[0].local)}
            assert set(owners.values()) == {os.getuid()}
            assert crowding.open_connections() >= 3  # two ends and the listener
            assert tcp_diag.connections({1}) == ([], {})
