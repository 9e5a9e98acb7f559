"""The relays of a class on a cluster: memory of one for each student, how fast one passes bytes, and what that costs.

    sudo python benchmarks/relay.py [--students 200] [--megabytes 2000] [--rounds 3]

systemd-socket-proxyd and the relay of nblauncher's own beside the straight way, in turn. First over loopback, where
sender, relay and receiver want the same processors: what is measured there is who gets them. Then between three network
namespaces, for browser, host and node, whose cables carry 1 and 10 Gbit/s (tc-tbf(8)), as in a class.

The server stands in for a student's: a process that sends bytes to each client, over plain TCP and over TLS. A relay's
CPU time is what the kernel charged to it (/proc/PID/schedstat). The small messages are like those of a notebook: two
short writes, and two in answer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from _shared import memory

from nblauncher.frontends import class_ca
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec, fork_run
from nblauncher.supervisor import relays, small_relay

_BLOCK = 1 << 16
_MESSAGE, _MESSAGES = bytes(100), 300
KINDS = ("systemd-socket-proxyd", "nblauncher's own")


@dataclass(frozen=True)
class Place:
    """Where a process runs: a network namespace, "" for this one."""

    namespace: str
    address: str


@dataclass(frozen=True)
class Link:
    name: str
    browser: Place
    host: Place
    node: Place
    megabytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("| relays | private MB | PSS MB |\n|---|---|---|")
    for kind in KINDS:
        private, shared = memory_of(kind, given.students)
        print(f"| {given.students} of {kind} | {private:.0f} | {shared:.0f} |", flush=True)
    print("\n| link | bytes | way | MB/s | of straight | CPU s of the relay per GB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        contexts = _contexts(Path(folder))
        here = Place("", "127.0.0.1")
        links = [Link("loopback", here, here, here, given.megabytes)]
        links += [stack.enter_context(cables(rate)) for rate in (1, 10)]
        for link in links:
            throughput(link, "TCP", (None, None), given.rounds)
            throughput(link, "TLS", contexts, given.rounds)
        print("\n| link | way | small messages, median ms | 99 of 100 within ms | over 20 ms |\n|---|---|---|---|---|")
        for link in links:
            latency(link)


def memory_of(kind: str, students: int) -> tuple[float, float]:
    here = Place("", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(relay(kind, here, here, 9))[0] for _ in range(students)]
        time.sleep(1)
        private, shared = map(sum, zip(*map(memory, pids), strict=True))
    return private, shared


def throughput(
    link: Link, kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None], rounds: int
) -> None:
    server, client = contexts
    with ways(link, partial(_send, server, link.megabytes)) as found:
        rates: dict[str, list[float]] = {way: [] for way, *_ in found}
        costs: dict[str, list[float]] = {way: [] for way, *_ in found}
        for _ in range(rounds):
            for way, pid, where, port in found:
                before = _processor(pid)
                with entered(link.browser):
                    rates[way].append(_receive(where, port, link.megabytes, client))
                costs[way].append((_processor(pid) - before) / (link.megabytes / 1000))
    straight = max(rates["straight"])
    for way, measured in rates.items():
        best, cost = max(measured), f"{statistics.median(costs[way]):.2f}" if way != "straight" else ""
        print(f"| {link.name} | {kind} | {way} | {best:.0f} | {100 * best / straight:.0f} % | {cost} |", flush=True)


def latency(link: Link) -> None:
    with ways(link, _echo) as found:
        for way, _pid, where, port in found:
            with entered(link.browser):
                taken = sorted(_talk(where, port))
            median, late = statistics.median(taken), taken[int(len(taken) * 0.99)]
            share = 100 * sum(one > 0.02 for one in taken) / len(taken)
            print(f"| {link.name} | {way} | {1000 * median:.2f} | {1000 * late:.2f} | {share:.1f} % |", flush=True)


@contextlib.contextmanager
def ways(link: Link, serve: Callable[[socket.socket], None]) -> Iterator[list[tuple[str, int, str, int]]]:
    """Name, pid of the relay (0: none), address and port of each way to a process that serves on the node."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(link.node, serve))
        found = [("straight", 0, link.node.address, port)]
        for kind in KINDS:
            pid, own = stack.enter_context(relay(kind, link.host, link.node, port))
            found.append((kind, pid, link.host.address, own))
        yield found


@contextlib.contextmanager
def relay(kind: str, host: Place, node: Place, port: int) -> Iterator[tuple[int, int]]:
    """Its pid and port."""
    with entered(host), socket.create_server((host.address, 0)) as listening:
        listening.setblocking(False)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as nblauncher.supervisor.ports does
        number = listening.fileno()
        sandbox, account = Sandbox(Group(Kind.NONE, Path("/"))), relays.account()
        if kind == KINDS[0]:
            argv = (str(relays.PROGRAM), "--connections-max=1024", f"{node.address}:{port}")
            handle, output = fork_exec(Child(account, argv, {}, (number,), Path("/"), sandbox, (number,)))
        else:
            child = Child(account, (), {}, (number,), Path("/"), sandbox)
            handle, output = fork_run(child, partial(small_relay.serve, (number,), node.address, port))
        own = int(listening.getsockname()[1])
    try:
        yield handle.pid, own
    finally:
        _end(handle.pid)
        os.close(output)


@contextlib.contextmanager
def serving(place: Place, serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a process that serves one connection after the other."""
    with entered(place):
        listening = socket.create_server((place.address, 0))
        pid = os.fork()
    if pid == 0:
        while True:
            connection, _address = listening.accept()
            with contextlib.suppress(OSError), connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                serve(connection)
    port = int(listening.getsockname()[1])
    listening.close()
    try:
        yield port
    finally:
        _end(pid)


@contextlib.contextmanager
def cables(gigabits: int) -> Iterator[Link]:
    """Three namespaces on a bridge; each end sends at this rate at most."""
    names, bridge = [f"nbtr{gigabits}{letter}" for letter in "bhn"], f"nbtr{gigabits}"
    browser, host, node = (Place(name, f"10.232.{gigabits}.{number}") for number, name in enumerate(names, start=1))
    shaped = f"tbf rate {gigabits}gbit burst 256k latency 20ms".split()
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("link", "set", bridge, "up")
        for place in (browser, host, node):
            name = place.namespace
            _ip("netns", "add", name)
            _ip("link", "add", f"{name}0", "master", bridge, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"{name}0", "up")
            _ip("-n", name, "addr", "add", f"{place.address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *shaped], check=True)
        yield Link(f"{gigabits} Gbit/s", browser, host, node, 300 * gigabits)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        _ip("link", "del", bridge)


@contextlib.contextmanager
def entered(place: Place) -> Iterator[None]:
    """What this thread opens and forks meanwhile is in the namespace."""
    if not place.namespace:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as own, open(f"/run/netns/{place.namespace}", "rb") as other:
        if libc.setns(other.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(own.fileno(), 0)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _send(context: ssl.SSLContext | None, megabytes: int, connection: socket.socket) -> None:
    encrypted = context.wrap_socket(connection, server_side=True) if context else connection
    block = bytes(_BLOCK)
    for _ in range(megabytes * 1_000_000 // _BLOCK):
        encrypted.sendall(block)
    encrypted.close()


def _receive(address: str, port: int, megabytes: int, context: ssl.SSLContext | None) -> float:
    """Megabytes a second."""
    wanted, began, got = megabytes * 1_000_000 // _BLOCK * _BLOCK, time.monotonic(), 0
    with socket.create_connection((address, port)) as plain:
        connection = context.wrap_socket(plain) if context else plain
        buffer = bytearray(_BLOCK)
        while got < wanted and (part := connection.recv_into(buffer)):
            got += part
    assert got == wanted, (got, wanted)
    return wanted / 1e6 / (time.monotonic() - began)


def _echo(connection: socket.socket) -> None:
    while (parts := _all_of(connection, 2 * len(_MESSAGE))) != b"":
        connection.sendall(parts[: len(_MESSAGE)])
        connection.sendall(parts[len(_MESSAGE) :])


def _talk(address: str, port: int) -> Iterator[float]:
    """Seconds of each exchange."""
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_MESSAGES):
            began = time.monotonic()
            connection.sendall(_MESSAGE)
            connection.sendall(_MESSAGE)
            assert _all_of(connection, 2 * len(_MESSAGE))
            yield time.monotonic() - began


def _all_of(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size and (part := connection.recv(size - len(parts))):
        parts += part
    return parts


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


def _processor(pid: int) -> float:
    """Seconds for which it ran."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 if pid else 0.0


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
