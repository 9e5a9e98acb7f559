"""The relay for hosts without systemd-socket-proxyd."""

from __future__ import annotations

import contextlib
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
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        pid = os.fork()
        if pid == 0:
            try:
                small_relay.serve([listening.fileno()], "127.0.0.1", port)
            finally:
                os._exit(1)
        own = listening.getsockname()[1]
    try:
        yield own
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
