"""service install|remove, and what the unit runs."""

from __future__ import annotations

import logging

import click

from nblauncher import interruption
from nblauncher.cli import talk
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import EXIT_INTERRUPTED, EXIT_PARTIAL, Deed, change, open_accepted, open_session
from nblauncher.commands import launch, service, session, shutdown
from nblauncher.commands.session import Session
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.plan import Plan, Report
from nblauncher.supervisor import client

log = logging.getLogger(__name__)

_LOOK_EVERY = 5.0


@click.command("service")
@click.argument("action", type=click.Choice(["install", "remove"]), metavar="install|remove")
@click.pass_obj
def service_command(call: Call, action: str) -> int:
    """Have the class come back by itself when the host is started again (systemd)."""
    opened = open_session(call)
    session.require_root(opened.caller, "service")
    course = opened.settings.course
    if action == "install":
        words = service.install(opened.host)
    elif service.remove(course):
        words = f"{service.unit_of(course)} is removed. A class that runs goes on; `nblauncher shutdown` ends it."
    else:
        words = f"there is no {service.unit_of(course)}: nothing to do."
    talk.answer(call, words, 0)
    return 0


def serve(call: Call, course: str) -> int:
    """Bring the class back as it was, tell systemd, and stay until it is over. SIGTERM ends the class, in order."""
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
    if worst not in (0, EXIT_PARTIAL) and not _has_class(host):
        return worst
    service.notify(f"READY=1\nSTATUS={len(up)} students up, {len(asleep)} when they come")
    return _stay(host)


def _bring_back(call: Call, opened: Session, names: tuple[str, ...], *, on_demand: bool) -> int:
    call.only = frozenset(names)

    def make_plan(host: Host) -> Plan:
        return launch.prepare(host, names, (), on_demand=on_demand)

    def summary(_host: Host, report: Report) -> str:
        return launch.served_words(report)

    return change(call, opened, make_plan, Deed("started", summary=summary, enrich=launch.student_details))


def _has_class(host: Host) -> bool:
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    supervisor.close()
    return True


def _stay(host: Host) -> int:
    while not interruption.take(_LOOK_EVERY):
        supervisor = client.connect(host.paths)
        if supervisor is None:
            # The course was removed, or shut down: then there is nothing to watch over.
            if not host.paths.state.is_dir() or not any(service.wanted(host)):
                return 0
            raise HostError("the supervisor is gone", "systemd starts the class again; what still runs is found.")
        supervisor.close()
    return _end(host)


def _end(host: Host) -> int:
    service.notify("STOPPING=1")
    supervisor = client.connect(host.paths)
    if supervisor is not None:
        with supervisor:
            supervisor.end()  # what each server should be stays in the ledger
    return 0
