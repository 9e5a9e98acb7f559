"""The requests of a class's host to servers on nodes: time, processor and memory of the child that sends them.

    python benchmarks/node_requests.py [--students 200]

The servers are threads of one process on the same host, which answer at once: what is measured is the host's own part,
TLS with a new connection for each server included.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from nblauncher.frontends import class_ca
from nblauncher.model import TlsFiles
from nblauncher.server.host_requests import HostAnswer
from nblauncher.supervisor import node_calls
from nblauncher.supervisor.node_calls import Call, Wanted
from nblauncher.system.tls_context import server_context

_ANSWER = b"HTTP/1.1 200 OK\r\n\r\n" + HostAnswer(1, 0, 1, 1, 1, 80_000_000).to_bytes()
_BODY = b"x" * 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=200)
    students = parser.parse_args().students
    with tempfile.TemporaryDirectory() as folder:
        authority = class_ca.ensure_class_ca(Path(folder), ("class.example",), (), "benchmark")
        files = class_ca.issue_leaf(authority, ("class.example",), ())
        certificate = ssl.PEM_cert_to_DER_cert(files.certificate.decode("ascii"))
        with serving(files) as port:
            calls = [
                Call(Wanted(f"s{number}", "0a", "127.0.0.1", port, _BODY), certificate, "seal")
                for number in range(students)
            ]
            for _ in range(3):
                in_a_child(authority.certificate.decode("ascii"), calls)


def in_a_child(authority: str, calls: list[Call]) -> None:
    pid = os.fork()
    if pid == 0:
        began = time.monotonic()
        answers = node_calls.call_all(authority, calls, 30.0)
        took, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
        good = sum(isinstance(answer, dict) for answer in answers.values())
        cpu = used.ru_utime + used.ru_stime
        print(f"{good} of {len(calls)} answered in {took:.2f} s, with {cpu:.2f} CPU s", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def serving(files: TlsFiles) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        pid = os.fork()
        if pid == 0:
            _serve(listening, server_context(files))
        try:
            yield listening.getsockname()[1]
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _serve(listening: socket.socket, context: ssl.SSLContext) -> None:
    def answer(client: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(_ANSWER)

    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main()
