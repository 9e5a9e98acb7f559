"""`launch` in the foreground: a one-line state until Ctrl-C, which stops the front page and nothing else."""

from __future__ import annotations

import logging
import signal
import sys
import threading

import click

from nblauncher.commands import status
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.model import ServerState
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0


def watch(host: Host) -> int:
    """Until SIGINT or SIGTERM (the front page stops, exit 0), SIGHUP (everything goes on), or the class's end."""
    asked = threading.Event()
    received: list[int] = []

    def remember(number: int, _frame: object) -> None:
        received.append(number)
        asked.set()

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        while not asked.wait(_LOOK_EVERY):
            words = _state(host)
            if words is None:
                return _ended(host)
            _show(words)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received[0] == signal.SIGHUP:
        log.info("the terminal is gone; the class goes on")
        return 0
    return _stop_front_page(host)


def _stop_front_page(host: Host) -> int:
    supervisor = client.connect(host.paths)
    if supervisor is not None:
        with supervisor:
            supervisor.stop_front_page()
    click.echo("\nThe front page is stopped; the students' servers run on. `nblauncher shutdown` ends them.", err=True)
    return 0


def _state(host: Host) -> str | None:
    """One line, or None when there is no supervisor any more."""
    try:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return None
        with supervisor:
            states = [report.state.value for report in supervisor.servers()]
            front = supervisor.front_page().state
    except HostError:
        return None
    entries = [{"server": state} for state in states]
    return status.summary(entries, front.value if front is not ServerState.STOPPED else "stopped")


def _show(words: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{words}   (Ctrl-C stops the front page)", nl=False, err=True)


def _ended(host: Host) -> int:
    """A shutdown leaves nobody up; a supervisor that was killed leaves the wish."""
    if "up" not in host.course_ledger.desired().values():
        click.echo("\nThe class was shut down.", err=True)
        return 0
    raise HostError("the supervisor is gone", "Run `nblauncher launch` again: it finds the servers that still run.")
