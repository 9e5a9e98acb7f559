"""Control groups of the host, with real processes in them."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from nblauncher.isolation import cgroups
from nblauncher.isolation.cgroups import Kind

pytestmark = pytest.mark.system

PORT = 18597
THREADS = 200


def listening() -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", PORT))
    one.listen()
    return one


def serve(ready: int) -> None:
    """Listen, and have threads: a process that ends is gone from cgroup.procs before its last thread has closed."""
    _held = listening()
    for _ in range(THREADS):
        threading.Thread(target=time.sleep, args=(60,)).start()
    os.write(ready, b"x")
    time.sleep(60)


@pytest.fixture
def group():
    groups = cgroups.choose("nbtgroups")
    assert groups.kind is not Kind.NONE
    one = groups.group("server")
    one.create()
    yield one
    groups.remove()


def test_an_empty_groups_ports_are_free(group):
    for _ in range(30):
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                serve(told)
            finally:
                os._exit(1)
        os.close(told)
        group.enter(pid)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        group.kill()
        while not group.is_empty():
            time.sleep(0)
        listening().close()
        os.waitpid(pid, 0)
