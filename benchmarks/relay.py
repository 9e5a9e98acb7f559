"""The relays of a class on a cluster: memory of one for each student, and how fast one passes bytes.

    sudo python benchmarks/relay.py [--students 200] [--megabytes 2000]

Both ends and the relay are on one host, so that they share its processors; a network in between would be slower. The
server stands in for a student's: a process that sends bytes to each client, over plain TCP and over TLS. With TLS
the processes at both ends have the most to do, as in a class.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nblauncher.frontends import class_ca
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec
from nblauncher.supervisor import relays

_BLOCK = 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory_of(given.students)
        for has_tls in (False, True):
            throughput(Path(folder), given.megabytes, has_tls=has_tls)


def memory_of(students: int) -> None:
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(relay("127.0.0.1:9"))[0] for _ in range(students)]
        time.sleep(1)
        private, shared = map(sum, zip(*map(_memory, pids), strict=True))
    print(f"{students} relays: {private / 1e6:.0f} MB private, {shared / 1e6:.0f} MB in all (PSS)")


def throughput(folder: Path, megabytes: int, *, has_tls: bool) -> None:
    server, client = _contexts(folder) if has_tls else (None, None)
    with sending(megabytes, server) as port, relay(f"127.0.0.1:{port}") as (_pid, relayed):
        rates: dict[int, list[float]] = {port: [], relayed: []}
        for _ in range(3):
            for where, found in rates.items():
                found.append(_receive(where, megabytes, client))
    straight, through = max(rates[port]), max(rates[relayed])
    kind, share = "TLS" if has_tls else "TCP", 100 * through / straight
    print(f"{kind}: straight {straight:.0f} MB/s, through a relay {through:.0f} MB/s ({share:.0f} %)")


@contextlib.contextmanager
def relay(target: str) -> Iterator[tuple[int, int]]:
    """Its pid and port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        number = listening.fileno()
        sandbox = Sandbox(Group(Kind.NONE, Path("/")))
        argv = (str(relays.PROGRAM), "--connections-max=1024", target)
        child = Child(relays.account(), argv, {}, (number,), Path("/"), sandbox, (number,))
        handle, output = fork_exec(child)
        port = int(listening.getsockname()[1])
    try:
        yield handle.pid, port
    finally:
        os.kill(handle.pid, signal.SIGKILL)
        os.waitpid(handle.pid, 0)
        os.close(output)


@contextlib.contextmanager
def sending(megabytes: int, context: ssl.SSLContext | None) -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        block = bytes(_BLOCK)
        while True:
            connection, _address = listening.accept()
            with contextlib.suppress(OSError), connection:
                encrypted = context.wrap_socket(connection, server_side=True) if context else connection
                for _ in range(megabytes * 1_000_000 // _BLOCK):
                    encrypted.sendall(block)
                encrypted.close()
    port = int(listening.getsockname()[1])
    listening.close()
    try:
        yield port
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _receive(port: int, megabytes: int, context: ssl.SSLContext | None) -> float:
    """Megabytes a second."""
    wanted, began, got = megabytes * 1_000_000 // _BLOCK * _BLOCK, time.monotonic(), 0
    with socket.create_connection(("127.0.0.1", port)) as plain:
        connection = context.wrap_socket(plain) if context else plain
        buffer = bytearray(_BLOCK)
        while got < wanted and (part := connection.recv_into(buffer)):
            got += part
    assert got == wanted, (got, wanted)
    return wanted / 1e6 / (time.monotonic() - began)


def _contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = class_ca.ensure_class_ca(folder, ("localhost",), ("127.0.0.1",), "relay")
    leaf = class_ca.ensure_leaf(authority, folder, "leaf", ("localhost",), ("127.0.0.1",))
    (folder / "certificate.pem").write_bytes(leaf.certificate)
    (folder / "key.pem").write_bytes(leaf.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return server, client


def _memory(pid: int) -> tuple[int, int]:
    """Private and proportional bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Pss"]


if __name__ == "__main__":
    main()
