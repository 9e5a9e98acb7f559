"""`launch` in the foreground: a one-line state until Ctrl-C, which stops the front page and nothing else."""

from __future__ import annotations

import logging
import signal
import sys

import click

from nblauncher import interruption
from nblauncher.cli import talk
from nblauncher.commands import status
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.printable import printable
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
"""Seconds."""


def keep(host: Host) -> int:
    """Show the state until SIGINT or SIGTERM (the front page stops), SIGHUP, or the class's end. The exit code."""
    while True:
        words = _state(host)
        if words is None:
            return _ended(host)
        _show(words)
        came = interruption.take(_LOOK_EVERY)
        if came == {signal.SIGHUP}:
            log.info("the terminal is gone; the class goes on")
            return 0
        if came:
            return _stop_front_page(host)


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
