"""A message that makes whoever closes it wait: it carries a TCP socket with SO_LINGER and data that nobody reads."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator

import psutil

from nblauncher.model import Account
from nblauncher.system import workers
from tests.running import eventually

SECONDS = 120


@contextlib.contextmanager
def slow_descriptor_sent(account: Account, address: str, receiver: psutil.Process) -> Iterator[None]:
    """`receiver` finds such a message of this account's in a connection that waits for it."""
    receiver.suspend()  # or else it may close the connection before the message is there
    worker = workers.start(account, _send, address)
    eventually(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
    receiver.resume()
    try:
        yield
    finally:
        psutil.Process(worker.pid).resume()
        worker.result(timeout=60)


def _send(address: str) -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        slow = socket.create_connection(listening.getsockname())
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(b"x" * 65536)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, SECONDS))
        one = socket.socket(socket.AF_UNIX)
        one.connect(address)
        socket.send_fds(one, [b"x"], [slow.fileno()])
        slow.close()  # it is in the message alone now
        os.kill(os.getpid(), signal.SIGSTOP)
    return 0
