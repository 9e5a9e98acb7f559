"""A unix socket for everybody: who is served, who is refused, and what a lack of descriptors costs."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from nblauncher.system.unix_server import Limits, UnixServer
from tests.running import eventually


class Greeting:
    """Says hello to each uid but `stranger`, and waits until it is answered."""

    def __init__(self, stranger: int) -> None:
        self.stranger = stranger

    def reject_reason(self, uid: int) -> str:
        return "a stranger" if uid == self.stranger else ""

    def rejection(self, reason: str) -> bytes:
        return reason.encode()

    def on_start(self, uid: int, pid: int) -> None: ...

    def on_exit(self, uid: int, pid: int, status: int) -> None: ...

    def run(self, uid: int, connection: socket.socket) -> NoReturn:
        connection.settimeout(None)
        connection.send(b"hello")
        connection.recv(10)
        os._exit(0)


class Desk:
    def __init__(self, folder: Path, limits: Limits, stranger: int = -1) -> None:
        self.address = str(folder / "door")
        door = socket.socket(socket.AF_UNIX)
        door.bind(self.address)
        door.listen(100)
        self.link, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            UnixServer(door, Greeting(stranger), limits).serve(theirs, lambda: not hung_up(theirs))
            os._exit(0)
        theirs.close()
        door.close()

    def heard(self, one: socket.socket, timeout: float = 20.0) -> bytes:
        one.settimeout(timeout)
        return one.recv(100)

    def connect(self) -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        one.connect(self.address)
        return one

    def children(self) -> list[int]:
        """Running, or not yet waited for (proc_pid_children(5))."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def close(self) -> int:
        self.link.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def hung_up(link: socket.socket) -> bool:
    try:
        return link.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Desk]]:
    desks: list[Desk] = []
    yield desks
    for desk in desks:
        os.kill(desk.pid, signal.SIGKILL)
        desk.close()


def test_each_comer_has_a_child_and_the_end_of_the_link_is_the_end(tmp_path):
    desk = Desk(tmp_path, Limits(children=9, burst=9, per_second=9))
    both = [desk.connect(), desk.connect()]
    assert [desk.heard(one) for one in both] == [b"hello", b"hello"]
    assert desk.close() == 0
    for one in both:
        one.close()


def test_strangers_hear_why_and_are_let_go(tmp_path, made):
    made.append(Desk(tmp_path, Limits(children=9, burst=9, per_second=9), stranger=os.getuid()))
    with made[0].connect() as one:
        assert made[0].heard(one) == b"a stranger" and made[0].heard(one) == b""


def test_nobody_has_more_children_or_requests_than_the_limits_allow(tmp_path, made):
    made.append(Desk(tmp_path, Limits(children=2, burst=3, per_second=0.01)))
    first, second, third, fourth = (made[0].connect() for _ in range(4))
    assert [made[0].heard(one) for one in (first, second)] == [b"hello", b"hello"]
    assert made[0].heard(third) == b"2 run already"
    assert made[0].heard(fourth) == b"too many requests"
    for one in (first, second, third, fourth):
        one.close()


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_without_descriptors_it_waits_and_goes_on_when_there_are_some(tmp_path, made, spare):
    """Too few to accept, to fork, or for both."""
    made.append(Desk(tmp_path, Limits(children=9, burst=9, per_second=9)))
    desk = made[0]
    with desk.connect() as one:
        assert desk.heard(one) == b"hello"
    eventually(lambda: not desk.children())
    soft, hard = resource.prlimit(desk.pid, resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir(f"/proc/{desk.pid}/fd")))
    free = [number for number in range(max(taken) + 4) if number not in taken]
    resource.prlimit(desk.pid, resource.RLIMIT_NOFILE, (free[spare], hard))
    with desk.connect() as late:
        heard = b""
        with contextlib.suppress(TimeoutError):
            heard = desk.heard(late, timeout=0.5)
        assert heard == (b"cannot fork: Too many open files" if spare else b"")
        before = ticks(desk.pid)
        time.sleep(1)
        assert ticks(desk.pid) - before < 0.5 * os.sysconf("SC_CLK_TCK"), "it turns in circles"
        resource.prlimit(desk.pid, resource.RLIMIT_NOFILE, (soft, hard))
        if not spare:
            assert desk.heard(late) == b"hello"
    with desk.connect() as later:
        assert desk.heard(later) == b"hello"


def ticks(pid: int) -> int:
    """CPU time of the process (proc_pid_stat(5))."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
