"""Socket activation: a sleeping server's listening sockets are watched, never accepted from, until a client connects.

A student who signs in at the front page wakes the server at once. A connection alone can come from any process, also
from a student who scans all ports: so only a few servers at a time may be awake for connections alone, each for
`SIGN_IN_TIME` seconds until its student signs in, and after a miss the next one has to wait. Clients meanwhile wait in
the port's backlog: no error, no reload.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from nblauncher.model import ServerState
from nblauncher.supervisor import ports
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat, Waker
from nblauncher.supervisor.spawners import SLURM
from nblauncher.system import memory
from nblauncher.system.memory import Room

log = logging.getLogger(__name__)

SIGN_IN_TIME = 30.0
"""Seconds within which the student must have signed in to a server that a connection woke."""

LONGEST_WAIT = 600.0
"""Seconds that a server is left asleep, at most, after wake-ups without a sign-in."""

SIGN_IN, CONNECTION = "sign-in", "connection"
"""What wakes a server: its student signed in at the front page, or a client connected."""

_LOOK_AGAIN = 1.0


def wait_after(misses: int) -> float:
    """Seconds until a connection may wake the server again. The first timeout costs nothing, for slow typists."""
    return 0.0 if misses < 2 else min(SIGN_IN_TIME * 2.0 ** (misses - 2), LONGEST_WAIT)


class Waking:
    """`start` begins to start a seat's server, and the seat's state shows at once whether that could be tried; `end`
    puts a server to sleep again, for a reason.
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
        """Servers that may be starting, and that may be awake for a connection alone."""
        self._queue: list[Seat] = []
        self._is_to_look = False

    def arm(self, seat: Seat, reason: str = "") -> None:
        """The server sleeps from now on, and a connection wakes it. HostError when another process took its port."""
        is_queued = seat in self._queue
        self.forget(seat)
        ports.listen_again(seat.sockets)
        seat.state, seat.reason = ServerState.ASLEEP, reason
        for listening in seat.sockets:
            self._loop.watch(listening.fileno(), lambda: self._on_connection(seat))
        if is_queued:
            self.wake(seat)

    def forget(self, seat: Seat) -> None:
        """The caller is about to start, stop or drop it."""
        self._unwatch(seat)
        if seat in self._queue:
            self._queue.remove(seat)
        if seat.waker.deadline is not None:
            seat.waker.deadline.cancel()
        seat.waker = Waker(misses=seat.waker.misses, not_before=seat.waker.not_before)

    def wake(self, seat: Seat) -> None:
        """The student signed in at the front page and is about to connect. If the server is still stopping, wake it
        once it has stopped.
        """
        if seat.is_up and seat.stopping is None:
            seat.waker.cause = SIGN_IN
        elif seat.state is ServerState.ASLEEP or (seat.stopping and seat.stopping.final_state is ServerState.ASLEEP):
            self._enqueue(seat, SIGN_IN)

    def answers(self, seat: Seat) -> None:
        """The server answers; if a connection woke it, the student should sign in now."""
        waker = seat.waker
        if waker.cause == CONNECTION and not waker.is_signed_in and waker.deadline is None:
            waker.deadline = self._loop.later(SIGN_IN_TIME, lambda: self._check_sign_in(seat))
        self.wake_next()

    def signed_in(self, seat: Seat) -> None:
        """A signed-in client sent a request."""
        seat.waker.is_signed_in, seat.waker.misses, seat.waker.not_before = True, 0, 0.0
        self.wake_next()

    def wake_next(self) -> None:
        """Start the queued servers for which there is room by now."""
        if not self._queue:
            return
        seats = list(self._seats)
        starting = sum(seat.state is ServerState.STARTING for seat in seats)
        unproven = sum(seat.is_up and seat.waker.cause == CONNECTION and not seat.waker.is_signed_in for seat in seats)
        is_local = any(seat.spawner != SLURM for seat in self._queue)  # jobs take no memory of this host
        places = min(self._most, self._room().students("process") if is_local else self._most) - starting
        now = time.monotonic()
        for seat in sorted(self._queue, key=lambda seat: seat.waker.cause != SIGN_IN):
            if places <= 0:
                break
            if seat.stopping is not None:
                continue
            if seat.waker.cause == CONNECTION:
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
        self.wake_next()

    def _on_connection(self, seat: Seat) -> None:
        """Stop watching: the sockets stay readable until the server accepts the connection."""
        self._unwatch(seat)
        self._enqueue(seat, CONNECTION)

    def _enqueue(self, seat: Seat, cause: str) -> None:
        if seat.waker.cause != SIGN_IN:
            seat.waker.cause = cause
        if seat not in self._queue:
            self._queue.append(seat)
        self.wake_next()

    def _check_sign_in(self, seat: Seat) -> None:
        """The time within which the student should have signed in is over."""
        seat.waker.deadline = None
        if seat.waker.is_signed_in or seat.waker.cause == SIGN_IN or not seat.is_up:
            return
        seat.waker.misses += 1
        wait = wait_after(seat.waker.misses)
        seat.waker.not_before = time.monotonic() + wait
        log.info("no sign-in to %s's server; connections wake it again in %.0f s", seat.username, wait)
        self._end(seat, "a client connected, and no sign-in followed")

    def _unwatch(self, seat: Seat) -> None:
        for listening in seat.sockets:
            self._loop.forget(listening.fileno())
