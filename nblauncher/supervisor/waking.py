"""Servers that sleep: a seat whose listening sockets are watched, never accepted from, until somebody comes.

Who gave the password at the front page is let in at once. A mere connection can come from anybody, a student who scans
all ports too: only a few servers at a time may be awake for connections alone, each for `PROOF` seconds until somebody
signs in, and after a miss the next one waits. Everybody else waits in the port's backlog: no error, no reload.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from nblauncher import memory
from nblauncher.memory import Room
from nblauncher.model import ServerState
from nblauncher.supervisor import ports
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat, Waker

log = logging.getLogger(__name__)

PROOF = 30.0
"""Seconds in which somebody must have signed in to a server that a connection woke."""

LONGEST_WAIT = 600.0
"""Seconds that a seat whose wake-ups brought nobody is left asleep, at most."""

CALL, CONNECTION = "call", "connection"
"""Why a seat is woken: its student signed in at the front page, or anybody connected."""

_LOOK_AGAIN = 1.0


def wait_after(misses: int) -> float:
    """Seconds until a connection may wake the seat again. The first miss is free: who types slowly comes back."""
    return 0.0 if misses < 2 else min(PROOF * 2.0 ** (misses - 2), LONGEST_WAIT)


class Waking:
    """`start` begins to start a seat's server, and its state says at once whether that could be tried; `end` puts an
    awake one back to sleep, for a reason.
    """

    def __init__(
        self,
        loop: Loop,
        seats: Iterable[Seat],
        start: Callable[[Seat], None],
        end: Callable[[Seat, str], None],
        room: Callable[[], Room] = memory.room,
    ) -> None:
        self._loop, self._seats, self._start, self._end, self._room = loop, seats, start, end, room
        self._most = 2 * (os.cpu_count() or 1)
        """Of starting servers, and of those that are awake for a connection alone."""
        self._queue: list[Seat] = []
        self._is_to_look = False

    def lay_down(self, seat: Seat, reason: str = "") -> None:
        """The seat sleeps from now on, and wakes when somebody connects. HostError when its port is somebody else's."""
        is_called = seat in self._queue
        self.forget(seat)
        ports.listen_again(seat.sockets)
        seat.state, seat.reason = ServerState.ASLEEP, reason
        for one in seat.sockets:
            self._loop.watch(one.fileno(), lambda: self._knocked(seat))
        if is_called:
            self.call(seat)

    def forget(self, seat: Seat) -> None:
        """Another hand takes over: it is started, stopped or dropped."""
        self._unwatch(seat)
        if seat in self._queue:
            self._queue.remove(seat)
        if seat.waker.proof is not None:
            seat.waker.proof.cancel()
        seat.waker = Waker(misses=seat.waker.misses, not_before=seat.waker.not_before)

    def call(self, seat: Seat) -> None:
        """The student signed in at the front page and is about to come. A server that is on its way to sleep wakes
        when it lies.
        """
        if seat.is_up and seat.stopping is None:
            seat.waker.why = CALL
        elif seat.state is ServerState.ASLEEP or (seat.stopping and seat.stopping.final_state is ServerState.ASLEEP):
            self._enqueue(seat, CALL)

    def answers(self, seat: Seat) -> None:
        """A server is there; when a connection woke it, somebody should sign in now."""
        if seat.waker.why == CONNECTION and not seat.waker.is_proven and seat.waker.proof is None:
            seat.waker.proof = self._loop.later(PROOF, lambda: self._judge(seat))
        self.look()

    def proven(self, seat: Seat) -> None:
        """Somebody who is signed in asked for something."""
        seat.waker.is_proven, seat.waker.misses, seat.waker.not_before = True, 0, 0.0
        self.look()

    def look(self) -> None:
        """Wake whoever may be woken by now."""
        if not self._queue:
            return
        everybody = list(self._seats)
        starting = sum(seat.state is ServerState.STARTING for seat in everybody)
        unproven = sum(seat.is_up and seat.waker.why == CONNECTION and not seat.waker.is_proven for seat in everybody)
        places = min(self._most, self._room().students("process")) - starting
        now = time.monotonic()
        for seat in sorted(self._queue, key=lambda seat: seat.waker.why != CALL):
            if places <= 0:
                break
            if seat.stopping is not None:
                continue
            if seat.waker.why == CONNECTION:
                if unproven >= self._most or now < seat.waker.not_before:
                    continue
                unproven += 1
            places -= 1
            self._queue.remove(seat)
            self._unwatch(seat)
            self._start(seat)
        if self._queue and not self._is_to_look:
            self._is_to_look = True
            self._loop.later(_LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._is_to_look = False
        self.look()

    def _knocked(self, seat: Seat) -> None:
        """The sockets stay readable until the server takes the connection, so nobody watches them now."""
        self._unwatch(seat)
        self._enqueue(seat, CONNECTION)

    def _enqueue(self, seat: Seat, why: str) -> None:
        if seat.waker.why != CALL:
            seat.waker.why = why
        if seat not in self._queue:
            self._queue.append(seat)
        self.look()

    def _judge(self, seat: Seat) -> None:
        """The time in which somebody should have signed in is over."""
        seat.waker.proof = None
        if seat.waker.is_proven or seat.waker.why == CALL or not seat.is_up:
            return
        seat.waker.misses += 1
        wait = wait_after(seat.waker.misses)
        seat.waker.not_before = time.monotonic() + wait
        log.info("nobody signed in to %s's server; connections wake it again in %.0f s", seat.username, wait)
        self._end(seat, "somebody connected and did not sign in")

    def _unwatch(self, seat: Seat) -> None:
        for one in seat.sockets:
            self._loop.forget(one.fileno())
