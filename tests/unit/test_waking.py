"""Who may wake up when: the queue by itself, with a clock and a memory that the test sets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nblauncher import memory
from nblauncher.cgroups import Group, Kind
from nblauncher.model import ServerState
from nblauncher.supervisor import waking
from nblauncher.supervisor.loop import Timer
from nblauncher.supervisor.seat import Seat, Stopping
from nblauncher.supervisor.waking import PROOF, Waking, wait_after

MOST = 2 * (os.cpu_count() or 1)
PLENTY = 1_000_000_000_000


class Room:
    """Seats, and the loop that they think they are in."""

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
            self.waking.lay_down(seat)

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
        self.waking.lay_down(seat, reason)

    def knock(self, seat: Seat) -> None:
        """Somebody connects; nobody is told twice."""
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
        monkeypatch.setattr(waking.time, "monotonic", lambda: made[-1].now)
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_first_connection_wakes_a_seat_once(room):
    class_ = room(1)
    seat = class_.seats[0]
    class_.knock(seat)
    class_.knock(seat)
    assert class_.started == ["s0"] and not class_.watched


def test_a_scan_of_all_ports_wakes_a_few_servers_which_sleep_again_when_nobody_signs_in(room):
    class_ = room(50)
    for seat in class_.seats:
        class_.knock(seat)
    first = class_.started[:]
    assert len(first) == MOST
    for seat in class_.seats[:MOST]:
        class_.answers(seat)
    class_.go_on(PROOF - 1)
    assert class_.started == first, "the others wait"
    class_.go_on(2)
    assert class_.ended[:MOST] == first
    assert len(class_.started) == 2 * MOST


def test_whoever_gave_the_password_at_the_front_page_passes_everybody(room):
    class_ = room(50)
    for seat in class_.seats:
        class_.knock(seat)
    for seat in class_.seats[:MOST]:
        class_.answers(seat)
    class_.waking.call(class_.seats[40])
    assert class_.started[-1] == "s40"
    class_.answers(class_.seats[40])
    class_.go_on(PROOF + 1)
    assert "s40" not in class_.ended


def test_whoever_signs_in_makes_room_for_others_and_stays(room):
    class_ = room(50)
    for seat in class_.seats:
        class_.knock(seat)
    for number in range(50):
        seat = class_.seats[number]
        assert seat.username in class_.started
        class_.answers(seat)
        class_.waking.proven(seat)
    class_.go_on(10 * PROOF)
    assert class_.ended == []


def test_a_call_for_a_seat_that_a_connection_woke_ends_the_doubt(room):
    class_ = room(1)
    seat = class_.seats[0]
    class_.knock(seat)
    class_.answers(seat)
    class_.waking.call(seat)
    class_.go_on(PROOF + 1)
    assert class_.ended == []


def test_wake_ups_that_bring_nobody_come_later_and_later_and_a_sign_in_forgets_that(room):
    class_ = room(1)
    seat = class_.seats[0]
    for misses in range(1, 5):
        class_.knock(seat)
        class_.go_on(wait_after(misses - 1) - 2)
        assert len(class_.started) == misses - (misses > 2)
        class_.go_on(4)
        assert len(class_.started) == misses
        class_.answers(seat)
        class_.go_on(PROOF + 1)
        assert len(class_.ended) == misses
    assert [wait_after(number) for number in range(8)] == [0, 0, 30, 60, 120, 240, 480, 600]
    class_.waking.call(seat)
    assert len(class_.started) == 5
    class_.answers(seat)
    class_.waking.proven(seat)
    class_.waking.forget(seat)
    class_.waking.lay_down(seat)
    class_.knock(seat)
    assert len(class_.started) == 6


def test_nobody_wakes_into_a_full_memory(room):
    class_ = room(10)
    class_.available = int(memory.RESERVE * PLENTY) + 2 * memory.student_bytes("process") + 1
    for seat in class_.seats:
        class_.waking.call(seat)
    assert len(class_.started) == 2
    class_.go_on(5)
    assert len(class_.started) == 2
    class_.available = PLENTY
    class_.go_on(2)
    assert len(class_.started) == min(10, MOST)


def test_a_call_while_the_server_is_on_its_way_to_sleep_is_not_forgotten(room):
    class_ = room(1)
    seat = class_.seats[0]
    seat.state, seat.stopping = ServerState.STOPPED, Stopping(ServerState.ASLEEP, "")
    class_.waking.call(seat)
    class_.go_on(3)
    assert class_.started == []
    seat.stopping = None
    class_.waking.lay_down(seat)
    assert class_.started == ["s0"]


def test_a_seat_that_is_stopped_is_out_of_the_queue(room):
    class_ = room(1)
    seat = class_.seats[0]
    class_.available = 0
    class_.waking.call(seat)
    class_.waking.forget(seat)
    seat.state = ServerState.STOPPED
    class_.available = PLENTY
    class_.go_on(5)
    assert class_.started == []


def test_the_hosts_memory_is_read():
    room = memory.room()
    assert 0 < room.available <= room.total < 1 << 50
