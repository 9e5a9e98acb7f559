"""The relay for hosts without systemd-socket-proxyd."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from nblauncher.supervisor import small_relay

SENT = os.urandom(3_000_000)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@contextlib.contextmanager
def relay(port: int) -> Iterator[int]:
    """Its own port."""
    with relays(port, 1) as (_pid, own):
        yield own[0]


@contextlib.contextmanager
def relays(port: int, count: int) -> Iterator[tuple[int, list[int]]]:
    """Its pid, and its own ports."""
    with contextlib.ExitStack() as stack:
        listening = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        for one in listening:
            one.setblocking(False)
        pid = os.fork()
        if pid == 0:
            try:
                small_relay.serve([one.fileno() for one in listening], "127.0.0.1", port)
            finally:
                os._exit(1)
        own = [one.getsockname()[1] for one in listening]
    try:
        yield pid, own
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def echo(listening: socket.socket) -> None:
    """Sends back all that came, once the other side has sent everything."""
    connection, _address = listening.accept()
    with connection:
        connection.sendall(everything(connection))


def everything(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def echoed(server: socket.socket, port: int, sent: bytes) -> bytes:
    answering = threading.Thread(target=echo, args=[server])
    answering.start()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        found = everything(client)
    answering.join(20)
    return found


def test_all_bytes_pass_in_both_directions_and_an_end_passes_too(server):
    with relay(server.getsockname()[1]) as port:
        for _ in range(3):
            assert echoed(server, port, SENT) == SENT


def test_a_silent_client_keeps_nobody_waiting(server):
    with relay(server.getsockname()[1]) as port, socket.create_connection(("127.0.0.1", port)):
        silent, _address = server.accept()
        with silent:
            assert echoed(server, port, b"hello") == b"hello"


def test_a_client_is_hung_up_on_when_the_server_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    reset = contextlib.suppress(ConnectionResetError)
    with relay(port) as own, socket.create_connection(("127.0.0.1", own), timeout=20) as client, reset:
        assert client.recv(1) == b""


def test_a_client_that_vanishes_in_the_middle_costs_the_others_nothing(server):
    with relay(server.getsockname()[1]) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            sending, _address = server.accept()
            with sending, contextlib.suppress(OSError):
                sending.settimeout(1)
                sending.sendall(SENT)  # more than the buffers in between take: the rest waits for the client
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert echoed(server, port, SENT) == SENT


def test_a_slow_client_gets_everything(server):
    with relay(server.getsockname()[1]) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        answering = threading.Thread(target=lambda: send_all(server, 5 * SENT))
        answering.start()
        time.sleep(0.3)  # until all buffers are full
        assert everything(client) == 5 * SENT
        answering.join(20)


def send_all(listening: socket.socket, sent: bytes) -> None:
    connection, _address = listening.accept()
    with connection:
        connection.sendall(sent)


def test_a_full_relay_takes_no_more_until_somebody_leaves_also_from_two_sockets_at_once(server, monkeypatch):
    monkeypatch.setattr(small_relay, "_MOST", 2)
    with relays(server.getsockname()[1], 2) as (pid, ports), contextlib.ExitStack() as clients:

        def come(port: int) -> socket.socket:
            return clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))

        def arrives() -> socket.socket:
            return clients.enter_context(server.accept()[0])

        server.settimeout(20)
        come(ports[0])
        arrives()
        os.kill(pid, signal.SIGSTOP)
        for port in ports:
            come(port)
        os.kill(pid, signal.SIGCONT)
        arrives(), arrives()  # one more than there is room for
        clients.close()
        assert echoed(server, ports[0], SENT) == SENT and echoed(server, ports[1], SENT) == SENT


def test_without_a_descriptor_the_relay_waits_a_moment_and_does_not_spin(server, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(small_relay.time, "sleep", slept.append)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        own = small_relay._Relay([os.dup(listening.fileno())], ())  # type: ignore[arg-type]
        for problem in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
            own._take(_Refusing(problem))  # type: ignore[arg-type]
        own._poll.close()
        for one in own._listening.values():
            one.close()
    assert slept == [small_relay._PAUSE] * 2


class _Refusing:
    def __init__(self, problem: int) -> None:
        self.problem = problem

    def accept(self) -> None:
        raise OSError(self.problem, os.strerror(self.problem))
