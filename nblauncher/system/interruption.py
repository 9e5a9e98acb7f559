"""Ctrl-C, SIGTERM and a hangup, remembered until the command can stop safely.

A handler that raises may do so inside Python's bookkeeping around fork(2), where the exception is dropped, or while the
same thread holds a lock that it then waits for. So the handler only remembers the signal, and the wake-up descriptor
ends a wait. Only `check` and the waits below raise KeyboardInterrupt, once for each signal.
Sources: signal(7), Python's signal.set_wakeup_fd, PEP 475.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ends: tuple[int, int] | None = None
"""The pipe that the interpreter writes to when a signal arrives: read end, write end."""
_pending: set[int] = set()
_stops: set[int] = set(_SIGNALS)
"""Which of them interrupt the command."""


def listen() -> None:
    """Remember signals from now on. For the main thread of a command, before slow imports.

    A signal that the caller had us ignore (nohup, a shell's background job) stays ignored.
    """
    global _ends
    _ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(_ends[1], warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _remember)


def forget() -> None:
    """For a forked child, which must not act on its parent's signals. The caller sets the handlers."""
    global _ends
    signal.set_wakeup_fd(-1)
    _ends = None
    _pending.clear()


def outlive_hangups() -> None:
    """A closed terminal does not interrupt this command; `take` still reports it."""
    _stops.discard(signal.SIGHUP)


def came() -> bool:
    """Whether a signal came that stops the command; it is forgotten then."""
    stopping = _pending & _stops
    _pending.difference_update(stopping)
    return bool(stopping)


def check() -> None:
    """Raise KeyboardInterrupt if a signal came. Call it where stopping is safe."""
    if came():
        raise KeyboardInterrupt


def take(timeout: float) -> frozenset[int]:
    """The signals that came, after waiting up to `timeout` seconds for the first one. They are forgotten then."""
    until = time.monotonic() + timeout
    while not _pending and (left := until - time.monotonic()) > 0:
        _wait((), left)
    came = frozenset(_pending)
    _pending.clear()
    return came


def wait(descriptors: Iterable[int], timeout: float | None = None) -> list[int]:
    """The readable descriptors, none after `timeout` seconds. KeyboardInterrupt when a signal comes first."""
    wanted = tuple(descriptors)
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        check()
        left = None if until is None else max(0.0, until - time.monotonic())
        if (ready := _wait(wanted, left)) or left == 0:
            return ready


def sleep(seconds: float) -> None:
    """KeyboardInterrupt when a signal comes first."""
    wait((), seconds)


def _wait(descriptors: tuple[int, ...], timeout: float | None) -> list[int]:
    """May also return nothing early."""
    poller = select.poll()  # select(2) knows no descriptor above 1023
    for descriptor in (*descriptors, *(_ends[:1] if _ends else ())):
        poller.register(descriptor, select.POLLIN)
    ready = [descriptor for descriptor, _events in poller.poll(None if timeout is None else timeout * 1000)]
    if _ends and _ends[0] in ready:
        ready.remove(_ends[0])
        with contextlib.suppress(BlockingIOError):  # a process that shares the pipe may have read it first
            os.read(_ends[0], 4096)
    return ready


def _remember(number: int, _frame: FrameType | None) -> None:
    _pending.add(number)
