"""`launch` in the foreground: a one-line state until Ctrl-C, which stops the front page and nothing else."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import click

from nblauncher.cli import terminal
from nblauncher.errors import HostError
from nblauncher.printable import printable
from nblauncher.system import interruption

if TYPE_CHECKING:
    from nblauncher.planning.host import Host

log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
"""Seconds."""


def keep(host: Host) -> int:
    """Show the state until SIGINT or SIGTERM (the front page stops), SIGHUP, or the class's end. The exit code."""
    from nblauncher.commands.running import status

    while True:
        words = status.line(host)
        if words is None:
            return _ended(host)
        _show(words)
        came = interruption.take(_LOOK_EVERY)
        if came == {signal.SIGHUP}:
            log.info("the terminal is gone; the class keeps running")
            return 0
        if came:
            return _stop_front_page(host)


def _stop_front_page(host: Host) -> int:
    from nblauncher.commands.running import front_page

    if not front_page.stop(host):
        return _ended(host)
    _say("The front page is stopped. The students' servers keep running; `nblauncher shutdown` ends them.")
    return 0


def _show(words: str) -> None:
    if sys.stderr.isatty():
        line = f"{words}   (Ctrl-C stops the front page)"
        click.echo(f"\r\x1b[K{printable(line)[: terminal.terminal_width() - 1]}", nl=False, err=True)


def _ended(host: Host) -> int:
    """After a shutdown the ledger wants every server down; after the supervisor was killed it does not."""
    if set(host.course_ledger.desired().values()) <= {"down"}:
        _say("The class was shut down.")
        return 0
    raise HostError("the supervisor is gone", "Run `nblauncher launch` again: it finds the servers that still run.")


def _say(words: str) -> None:
    """On a line of its own, below the status line."""
    terminal.story(f"\n{words}" if sys.stderr.isatty() else words)
