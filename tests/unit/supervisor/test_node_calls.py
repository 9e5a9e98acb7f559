"""Calls to servers on nodes: honest ones, and those of students who have something else in mind."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nblauncher.frontends import class_ca
from nblauncher.frontends.class_ca import ClassCA
from nblauncher.model import TlsFiles
from nblauncher.server.host_requests import LARGEST_ANSWER, HostAnswer
from nblauncher.supervisor import node_calls
from nblauncher.supervisor.node_calls import Call, Wanted
from nblauncher.system.tls_context import server_context

ANSWER = HostAnswer(2, 1, 3, 4, 1, 81_000_000)
PATIENCE = 1.5
Behaviour = Callable[[ssl.SSLSocket], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClassCA:
    return class_ca.ensure_class_ca(tmp_path_factory.mktemp("tls"), ("class.example",), ("127.0.0.1",), "physics")


def leaf(authority: ClassCA) -> TlsFiles:
    return class_ca.issue_leaf(authority, ("class.example",), ())


@contextmanager
def serving(files: TlsFiles, behave: Behaviour) -> Iterator[int]:
    """A server that behaves so to each client. Its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        context = server_context(files)

        def serve() -> None:
            while True:
                try:
                    client, _address = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(client, server_side=True) as connection:
                        behave(connection)
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def answering(content: bytes) -> Behaviour:
    def behave(connection: ssl.SSLSocket) -> None:
        connection.recv(65536)
        connection.sendall(content)

    return behave


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body


def dripping(connection: ssl.SSLSocket) -> None:
    for _ in range(1000):
        connection.sendall(b"H")
        time.sleep(0.05)


def flooding(connection: ssl.SSLSocket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536)


def hanging(connection: ssl.SSLSocket) -> None:
    time.sleep(2 * PATIENCE)


def call(files: TlsFiles, port: int, username: str = "ada") -> Call:
    certificate = ssl.PEM_cert_to_DER_cert(files.certificate.decode())
    return Call(Wanted(username, "0a", "127.0.0.1", port, b'{"notices": "{}"}'), certificate, "seal")


def ask(authority: ClassCA, *calls: Call) -> dict[str, HostAnswer | str]:
    found = node_calls.call_all(authority.certificate.decode(), calls, PATIENCE)
    return {name: node_calls.found_in(given) for name, given in found.items()}


def test_an_honest_server_gets_the_sealed_request_and_is_heard(authority):
    files, asked = leaf(authority), list[bytes]()

    def behave(connection: ssl.SSLSocket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(ok(ANSWER.to_bytes()))

    with serving(files, behave) as port:
        assert ask(authority, call(files, port)) == {"ada": ANSWER}
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /user/ada/nblauncher/host HTTP/1.1\r\n") and b"X-Nblauncher-Seal: seal" in head
    assert body == b'{"notices": "{}"}'


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (answering(ok(b"{}")), "names no wish"),
        (answering(ok(b"[" * 900)), "Expecting value"),
        (answering(ok(b" " * (LARGEST_ANSWER + 1))), "too long"),
        (answering(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\n\r\n"), "something else"),
        (answering(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "refuses"),
        (answering(b""), "something else"),
        (answering(b"HTTP/1.1 200 OK\r\n"), "something else"),
        (flooding, "too long"),
        (dripping, "in time"),
        (hanging, "in time"),
    ],
)
def test_a_server_that_lies_floods_or_hangs_is_a_line_of_text_and_delays_no_other(authority, behave, words):
    bad, good = leaf(authority), leaf(authority)
    with serving(bad, behave) as one, serving(good, answering(ok(ANSWER.to_bytes()))) as other:
        found = ask(authority, call(bad, one, "eve"), call(good, other, "ada"))
    assert found["ada"] == ANSWER
    assert isinstance(found["eve"], str) and words in found["eve"], found


def test_a_server_with_another_students_certificate_is_asked_nothing(authority):
    mine, others = leaf(authority), leaf(authority)
    asked: list[bytes] = []
    with serving(others, lambda connection: asked.append(connection.recv(10))) as port:
        (found,) = ask(authority, call(mine, port)).values()
    assert isinstance(found, str) and "another student's certificate" in found
    assert asked in ([], [b""])


def test_a_server_with_a_certificate_of_another_class_is_asked_nothing(authority, tmp_path: Path):
    other = class_ca.ensure_class_ca(tmp_path / "tls", ("class.example",), (), "chemistry")
    files = leaf(other)
    with serving(files, answering(ok(ANSWER.to_bytes()))) as port:
        (found,) = ask(authority, call(files, port)).values()
    assert isinstance(found, str) and "cannot be reached" in found


def test_where_nothing_listens_is_no_news(authority):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    (found,) = ask(authority, call(leaf(authority), port)).values()
    assert isinstance(found, str) and "cannot be reached" in found


@pytest.mark.parametrize("given", [None, 1, [], {"kernels": 1}, {**ANSWER.to_json(), "busy": "1"}])
def test_what_the_child_hands_on_is_checked_again(given):
    assert isinstance(node_calls.found_in(given), str)
