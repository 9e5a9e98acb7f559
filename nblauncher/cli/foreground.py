"""`launch` in the foreground: a one-line state until Ctrl-C, which stops the front page and nothing else."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from nblauncher.cli import talk
from nblauncher.commands import status
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.printable import printable
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
"""Seconds."""


class Watch:
    """What signals mean: an interruption until the class is ready, and from then on the end of the watch."""

    def __init__(self) -> None:
        self.is_ready = False
        self.has_hung_up = False
        self._is_over = threading.Event()

    def received(self, number: int, _frame: FrameType | None) -> None:
        """SIGHUP ends nothing: the terminal was closed, and the class goes on without it."""
        if number == signal.SIGHUP:
            self.has_hung_up = True
        elif not self.is_ready:
            raise KeyboardInterrupt
        self._is_over.set()

    def keep(self, host: Host) -> int:
        """Show the state until SIGINT or SIGTERM (the front page stops), SIGHUP, or the class's end. The exit code."""
        is_over = False
        while not is_over:
            words = _state(host)
            if words is None:
                return _ended(host)
            _show(words)
            is_over = self._is_over.wait(_LOOK_EVERY)
        if self.has_hung_up:
            log.info("the terminal is gone; the class goes on")
            return 0
        return _stop_front_page(host)


@contextmanager
def watching() -> Iterator[Watch]:
    """From before the class is started: a signal right after "ready" must not find the default handlers."""
    watch = Watch()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, watch.received) for number in numbers}
    try:
        yield watch
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_front_page(host: Host) -> int:
    try:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return _ended(host)
        with supervisor:
            supervisor.stop_front_page()
    except HostError as error:
        log.warning("%s", error)
        return _ended(host)
    _say("The front page is stopped; the students' servers run on. `nblauncher shutdown` ends them.")
    return 0


def _state(host: Host) -> str | None:
    """One line, or None when there is no supervisor any more."""
    try:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return None
        with supervisor:
            entries = [{"server": report.state.value} for report in supervisor.servers()]
            return status.summary(entries, supervisor.front_page().state.value)
    except HostError as error:
        log.warning("%s", error)
        return None


def _show(words: str) -> None:
    if sys.stderr.isatty():
        line = f"{words}   (Ctrl-C stops the front page)"
        click.echo(f"\r\x1b[K{printable(line)[: talk.terminal_width() - 1]}", nl=False, err=True)


def _ended(host: Host) -> int:
    """A shutdown leaves nobody up; a supervisor that was killed leaves the wish."""
    if set(host.course_ledger.desired().values()) <= {"down"}:
        _say("The class was shut down.")
        return 0
    raise HostError("the supervisor is gone", "Run `nblauncher launch` again: it finds the servers that still run.")


def _say(words: str) -> None:
    """On a line of its own, below the state."""
    talk.story(f"\n{words}" if sys.stderr.isatty() else words)
