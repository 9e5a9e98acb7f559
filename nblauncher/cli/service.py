"""service install|remove, and the command that the unit runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from nblauncher.cli import terminal
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    CommandSpec,
    Prepared,
    change,
    open_accepted,
    open_session,
)
from nblauncher.cli.help import Command
from nblauncher.errors import HostError
from nblauncher.system import interruption

if TYPE_CHECKING:
    from nblauncher.commands.session import Session
    from nblauncher.planning.host import Host

log = logging.getLogger(__name__)

_LOOK_EVERY = 5.0


@click.command(
    "service",
    cls=Command,
    examples=[
        ("Start the class whenever the host boots", "sudo nblauncher service install"),
        ("No longer do so", "sudo nblauncher service remove"),
    ],
)
@click.argument("action", type=click.Choice(["install", "remove"]), metavar="install|remove")
@click.pass_obj
def service_command(call: Call, action: str) -> int:
    """Start the class again whenever the host boots (systemd)."""
    from nblauncher.commands import session
    from nblauncher.commands.running import service

    opened = open_session(call)
    session.require_root(opened.caller, "service")
    course = opened.settings.course
    if action == "install":
        words = service.install(opened.host)
    elif service.remove(course):
        words = f"Removed {service.unit_of(course)}. A running class keeps running; `nblauncher shutdown` ends it."
    else:
        words = f"there is no {service.unit_of(course)}: nothing to do."
    terminal.answer(call, words, 0)
    return 0


def serve(call: Call, course: str) -> int:
    """Bring the class back as it was, notify systemd, and stay until the class ends. SIGTERM shuts it down in order."""
    from nblauncher.commands.running import service, shutdown, status

    opened = open_accepted(call, course)
    host = opened.host
    up, asleep = service.wanted(host)
    if not up and not asleep:
        service.notify("READY=1\nSTATUS=The class was shut down: nothing to start.")
        return 0
    worst = 0
    for names, on_demand in ((up, False), (asleep, True)):
        if names and worst != EXIT_INTERRUPTED:
            service.notify(f"STATUS=Starting {shutdown.servers_of(names)}")
            worst = max(worst, _bring_back(call, opened, names, on_demand=on_demand))
    if worst == EXIT_INTERRUPTED:
        return _end(host)
    if worst not in (0, EXIT_PARTIAL) and not status.is_running(host):
        return worst
    service.notify(f"READY=1\nSTATUS={len(up)} servers up, {len(asleep)} start on demand")
    return _stay(host)


def _bring_back(call: Call, opened: Session, names: tuple[str, ...], *, on_demand: bool) -> int:
    from nblauncher.commands.running import launch

    call.only = frozenset(names)

    def prepare(host: Host) -> Prepared:
        plan = launch.prepare(host, names, (), on_demand=on_demand)
        return Prepared(plan, lambda _host, report: launch.served_words(report))

    return change(
        call,
        opened,
        prepare,
        CommandSpec("Started {servers}.", "{ratio} servers were not started", enrich=launch.student_details),
    )


def _stay(host: Host) -> int:
    from nblauncher.commands.running import service, status

    while not interruption.take(_LOOK_EVERY):
        if status.is_running(host):
            continue
        # The course was removed or shut down, so there is nothing left to watch.
        if not host.paths.state.is_dir() or not any(service.wanted(host)):
            return 0
        raise HostError(
            "the supervisor is gone", "systemd starts the class again and finds the servers that still run."
        )
    return _end(host)


def _end(host: Host) -> int:
    from nblauncher.commands.running import service

    service.notify("STOPPING=1")
    service.stop(host)
    return 0
