"""`nblauncher ARGUMENTS` by a fork of a process that has imported it: importing is most of what most commands do.

`served` begins that process, one for each test process, with nothing of a test in its memory. What it forks gets
folder, environment and outputs as a program would, and runs `nblauncher.__main__.main`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_LARGEST = 1 << 20

IMPORTED = """
import gc, importlib, pkgutil

from nblauncher.__main__ import main
from nblauncher.cli.render import table
from nblauncher.exchange import merge
from nblauncher.exchange.send import signing
from nblauncher.forkserver import life

for name in ("nblauncher.cli", "nblauncher.commands", "nblauncher.preflight"):
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(package, "__path__", ()), name + "."):
        importlib.import_module(found.name)
# What some commands import when they need it.
merge.load()
signing.load()
table(["column"], [["cell"]], 80)
gc.freeze()
"""
"""Of a program that forks commands: `life.live(main)` is one. It ends without the tearing down of an interpreter, which
would copy all the memory that it shares.
"""

_SERVER = """
import contextlib, json, os, selectors, socket, sys, time

IMPORTED


def run(words, folder, environment, outputs):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for number, descriptor in enumerate(outputs, start=1):
        os.dup2(descriptor, number)
    os.closerange(3, 256)
    sys.argv[:] = ["nblauncher", *words]
    life.live(main)


def begin(request, reply, *outputs):
    pid = os.fork()
    if pid == 0:
        run(*json.loads(request), outputs)
    reply.send(str(pid).encode())
    for descriptor in outputs:
        os.close(descriptor)
    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, reply))


def end(pidfd, pid, reply):
    waiting.unregister(pidfd)
    os.close(pidfd)
    with reply, contextlib.suppress(BrokenPipeError):  # the test waits no more
        reply.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


asked = socket.socket(fileno=int(sys.argv[1]))
waiting = selectors.DefaultSelector()
waiting.register(asked, selectors.EVENT_READ)
while True:
    for key, _events in waiting.select():
        if key.fileobj is not asked:
            end(key.fileobj, *key.data)
            continue
        request, descriptors, _flags, _address = socket.recv_fds(asked, LARGEST, 3)
        if not request:
            sys.exit()
        reply, *outputs = descriptors
        begin(request, socket.socket(fileno=reply), *outputs)
""".replace("LARGEST", str(_LARGEST)).replace("IMPORTED", IMPORTED)

_server: socket.socket | None = None


@contextlib.contextmanager
def served() -> Iterator[None]:
    """While it lasts `run` asks a process of its own."""
    global _server
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        # `-X nblauncher` does nothing, but a freeze spares the file workers of processes whose command line says so.
        command = [sys.executable, "-I", "-X", "nblauncher", "-c", _SERVER, str(its.fileno())]
        process = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
        its.close()
        _server = ours
        try:
            yield
        finally:
            _server = None
            ours.close()
            process.wait(30)


def is_served() -> bool:
    return _server is not None


def run(
    arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run with captured text, and as strict: it ends when nobody holds the outputs any more."""
    assert _server is not None
    request = json.dumps([arguments, str(folder), dict(environment)]).encode()
    deadline = time.monotonic() + timeout
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipes = [os.pipe() for _ in range(2)]
    with ours:
        socket.send_fds(_server, [request], [its.fileno(), *(writer for _reader, writer in pipes)])
        its.close()
        for _reader, writer in pipes:
            os.close(writer)
        pid = int(ours.recv(64))
        try:
            outputs = _read([reader for reader, _writer in pipes], deadline)
            ours.settimeout(max(deadline - time.monotonic(), 0.01))
            status = int(ours.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        finally:
            for reader, _writer in pipes:
                os.close(reader)
    return subprocess.CompletedProcess(arguments, status, *(output.decode() for output in outputs))


def _read(readers: list[int], deadline: float) -> list[bytes]:
    outputs = dict.fromkeys(readers, b"")
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            for key, _events in ready:
                assert isinstance(key.fileobj, int)
                if data := os.read(key.fileobj, 65536):
                    outputs[key.fileobj] += data
                else:
                    selector.unregister(key.fileobj)
    return list(outputs.values())
