"""Which servers may wake up when: the queue by itself, with a clock and a memory that the test sets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.model import ServerState
from nblauncher.supervisor import on_demand
from nblauncher.supervisor.loop import Timer
from nblauncher.supervisor.on_demand import SIGN_IN_TIME, Waking, wait_after
from nblauncher.supervisor.seat import Seat, Stopping
from nblauncher.system import memory

MOST = 2 * (os.cpu_count() or 1)
PLENTY = 1_000_000_000_000


class Room:
    """Seats, and the loop that they believe to be in."""

    def __init__(self, seats: int) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.watched: dict[int, Callable[[], None]] = {}
        self.started: list[str] = []
        self.ended: list[str] = []
        self.available = PLENTY
        self.seats = [Seat(f"s{number}", 100 + number, 0, Group(Kind.NONE, Path("/"))) for number in range(seats)]
        self.waking = Waking(self, self.seats, self.start, self.end, lambda: memory.Room(PLENTY, self.available))  # type: ignore[arg-type]
        for seat in self.seats:
            one = socket.socket()
            one.bind(("127.0.0.1", 0))
            one.listen()
            seat.sockets = [one]
            self.waking.arm(seat)

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        self.watched[descriptor] = call

    def forget(self, descriptor: int) -> None:
        self.watched.pop(descriptor, None)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self.now + seconds, len(self.timers), call)
        self.timers.append(timer)
        return timer

    def start(self, seat: Seat) -> None:
        seat.state = ServerState.STARTING
        self.started.append(seat.username)

    def end(self, seat: Seat, reason: str) -> None:
        assert reason
        self.waking.forget(seat)
        self.ended.append(seat.username)
        self.waking.arm(seat, reason)

    def connect(self, seat: Seat) -> None:
        """A client connects. The seat is told once."""
        if call := self.watched.get(seat.sockets[0].fileno()):
            call()

    def answers(self, seat: Seat) -> None:
        seat.state = ServerState.READY
        self.waking.answers(seat)

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while due := sorted(timer for timer in self.timers if timer.due <= until):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].due)
            if not due[0].is_cancelled:
                due[0].call()
        self.now = until

    def close(self) -> None:
        for seat in self.seats:
            seat.close()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch):
    made: list[Room] = []

    def make(seats: int) -> Room:
        made.append(Room(seats))
        monkeypatch.setattr(on_demand.time, "monotonic", lambda: made[-1].now)
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_first_connection_wakes_a_seat_once(room):
    class_ = room(1)
    seat = class_.seats[0]
    class_.connect(seat)
    class_.connect(seat)
    assert class_.started == ["s0"] and not class_.watched


def test_a_scan_of_all_ports_wakes_a_few_servers_which_sleep_again_without_a_sign_in(room):
    class_ = room(50)
    for seat in class_.seats:
        class_.connect(seat)
    first = class_.started[:]
    assert len(first) == MOST
    for seat in class_.seats[:MOST]:
        class_.answers(seat)
    class_.go_on(SIGN_IN_TIME - 1)
    assert class_.started == first, "the others wait"
    class_.go_on(2)
    assert class_.ended[:MOST] == first
    assert len(class_.started) == 2 * MOST


def test_a_student_who_signed_in_at_the_front_page_goes_first(room):
    class_ = room(50)
    for seat in class_.seats:
        class_.connect(seat)
    for seat in class_.seats[:MOST]:
        class_.answers(seat)
    class_.waking.wake(class_.seats[40])
    assert class_.started[-1] == "s40"
    class_.answers(class_.seats[40])
    class_.go_on(SIGN_IN_TIME + 1)
    assert "s40" not in class_.ended


def test_a_sign_in_makes_room_for_other_servers_and_keeps_this_one_up(room):
    class_ = room(50)
    for seat in class_.seats:
        class_.connect(seat)
    for number in range(50):
        seat = class_.seats[number]
        assert seat.username in class_.started
        class_.answers(seat)
        class_.waking.signed_in(seat)
    class_.go_on(10 * SIGN_IN_TIME)
    assert class_.ended == []


def test_a_sign_in_at_the_front_page_keeps_a_server_up_that_a_connection_woke(room):
    class_ = room(1)
    seat = class_.seats[0]
    class_.connect(seat)
    class_.answers(seat)
    class_.waking.wake(seat)
    class_.go_on(SIGN_IN_TIME + 1)
    assert class_.ended == []


def test_wake_ups_without_a_sign_in_come_later_and_later_until_a_sign_in(room):
    class_ = room(1)
    seat = class_.seats[0]
    for misses in range(1, 5):
        class_.connect(seat)
        class_.go_on(wait_after(misses - 1) - 2)
        assert len(class_.started) == misses - (misses > 2)
        class_.go_on(4)
        assert len(class_.started) == misses
        class_.answers(seat)
        class_.go_on(SIGN_IN_TIME + 1)
        assert len(class_.ended) == misses
    assert [wait_after(number) for number in range(8)] == [0, 0, 30, 60, 120, 240, 480, 600]
    class_.waking.wake(seat)
    assert len(class_.started) == 5
    class_.answers(seat)
    class_.waking.signed_in(seat)
    class_.waking.forget(seat)
    class_.waking.arm(seat)
    class_.connect(seat)
    assert len(class_.started) == 6


def test_no_server_wakes_while_memory_is_full(room):
    class_ = room(10)
    class_.available = int(memory.RESERVE * PLENTY) + 2 * memory.student_bytes("process") + 1
    for seat in class_.seats:
        class_.waking.wake(seat)
    assert len(class_.started) == 2
    class_.go_on(5)
    assert len(class_.started) == 2
    class_.available = PLENTY
    class_.go_on(2)
    assert len(class_.started) == min(10, MOST)


def test_a_sign_in_while_the_server_goes_to_sleep_is_not_forgotten(room):
    class_ = room(1)
    seat = class_.seats[0]
    seat.state, seat.stopping = ServerState.STOPPED, Stopping(ServerState.ASLEEP, "")
    class_.waking.wake(seat)
    class_.go_on(3)
    assert class_.started == []
    seat.stopping = None
    class_.waking.arm(seat)
    assert class_.started == ["s0"]


def test_a_seat_that_is_stopped_is_out_of_the_queue(room):
    class_ = room(1)
    seat = class_.seats[0]
    class_.available = 0
    class_.waking.wake(seat)
    class_.waking.forget(seat)
    seat.state = ServerState.STOPPED
    class_.available = PLENTY
    class_.go_on(5)
    assert class_.started == []


def test_the_hosts_memory_is_read():
    room = memory.room()
    assert 0 < room.available <= room.total < 1 << 50
