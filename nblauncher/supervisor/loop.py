"""The supervisor's event loop: descriptors, timers and ended children, one at a time."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


@dataclass(order=True)
class Timer:
    """A call in the future, unless it is cancelled."""

    due: float
    number: int
    call: Callable[[], None] = field(compare=False)
    is_cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """Calls back for ready descriptors, due timers and signals, all in one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._signals: dict[int, Callable[[], None]] = {}
        self._is_running = True
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self.watch(self._woken.fileno(), self._on_signal)

    def watch(self, descriptor: int, call: Callable[[], None], events: int = READ) -> None:
        """Call whenever the descriptor is ready, until `forget`. Replaces an earlier watch."""
        try:
            self._selector.register(descriptor, events, call)
        except KeyError:
            self._selector.modify(descriptor, events, call)

    def forget(self, descriptor: int) -> None:
        """Call it before the descriptor is closed. Nothing happens when it is not watched."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, next(self._numbers), call)
        heapq.heappush(self._timers, timer)
        return timer

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Call from the loop, not from the handler."""
        self._signals[number] = call
        signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def stop(self) -> None:
        self._is_running = False

    def run(self, each_round: Callable[[], None]) -> None:
        """Run until `stop`. `each_round` is called after each batch of events."""
        while self._is_running:
            for key, _events in self._selector.select(self._patience()):
                # An earlier call of this round may have stopped watching it.
                if self._is_watched(key):
                    key.data()
            self._call_due()
            each_round()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _is_watched(self, key: selectors.SelectorKey) -> bool:
        return self._selector.get_map().get(key.fd) == key

    def _patience(self) -> float | None:
        while self._timers and self._timers[0].is_cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None

    def _call_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            timer = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                timer.call()

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in frozenset(self._woken.recv(4096)):
                if call := self._signals.get(number):
                    call()


def reap() -> list[tuple[int, int]]:
    """The (pid, wait status) of every child that ended, adopted orphans included."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))
