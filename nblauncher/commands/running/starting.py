"""The steps that bring a class up: the supervisor with the class's ports, the servers, the front page."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import nblauncher
from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.auth import hashes
from nblauncher.commands import disks, wording
from nblauncher.commands.accepted import AcceptInputs
from nblauncher.commands.deadlines import freeze
from nblauncher.commands.running import classroom, front_page, nginx, readiness, schedule, shutdown
from nblauncher.commands.running.readiness import Outcome
from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange.send import profile
from nblauncher.ledger import locked
from nblauncher.model import ServerState
from nblauncher.planning.host import Host, host_lock
from nblauncher.planning.plan import Phase, SomeFailed
from nblauncher.preflight import kernels, machine
from nblauncher.server import class_files, job_file, shared_data
from nblauncher.supervisor import client
from nblauncher.supervisor.client import Client, ServerOrder
from nblauncher.supervisor.requests import PortWanted
from nblauncher.supervisor.spawners import SLURM
from nblauncher.system import memory

log = logging.getLogger(__name__)

SERVED = (ServerState.READY, ServerState.ASLEEP, ServerState.QUEUED)
"""The student finds a server: at once, after a moment, or when the cluster has room for it."""


@dataclass(frozen=True)
class ClassNow:
    """The class as it is, compared with the config and the ledger."""

    served: Collection[str] = ()
    """Their servers are left as they are: ready, frozen, or asleep with the present config."""
    outdated: Sequence[str] = ()
    """Their running servers were started with an older config."""
    frozen: Collection[str] = ()
    without_quota: Sequence[str] = ()
    """Their disk quota is not set yet."""
    front_page_is_current: bool = False
    files_are_current: bool = True
    schedule_is_current: bool = True


def look(host: Host, usernames: Sequence[str], *, on_demand: bool) -> ClassNow:
    """Ask the supervisor; changes nothing. With `on_demand` a sleeping server counts as served."""
    reports = shutdown.reports(host)
    running = {report.username for report in reports if report.state in (ServerState.READY, ServerState.QUEUED)}
    asleep = {report.username for report in reports if report.state is ServerState.ASLEEP} if on_demand else set()
    frozen = set(freeze.remembered(host)).intersection(usernames)
    return ClassNow(
        served=running | frozen | asleep.difference(classroom.outdated(host, asleep)),
        outdated=classroom.outdated(host, running),
        frozen=frozen,
        without_quota=disks.unlimited(host, usernames),
        front_page_is_current=front_page.is_current(host),
        files_are_current=files_are_current(host),
        schedule_is_current=schedule.is_current(host),
    )


def phases(
    missing: tuple[str, ...], now: ClassNow, *, on_demand: bool, new_inputs: AcceptInputs | None = None
) -> tuple[Phase, ...]:
    """Ports, servers of `missing` and front page: what `launch` and `reload` have in common."""
    is_complete = not missing and now.front_page_is_current and now.files_are_current
    return (
        Phase("hold the ports", () if is_complete else (HoldPorts(missing),)),
        Phase("start servers", (StartServers(missing, on_demand),) if missing else ()),
        # Before the front page, which is started again from them when it dies.
        Phase("inputs", (new_inputs,) if new_inputs else ()),
        # After the inputs: what the schedule starts must work with the accepted config.
        Phase("schedule", () if now.schedule_is_current else (schedule.SetSchedule(),)),
        Phase("front page", () if now.front_page_is_current else (front_page.StartFrontPage(),)),
    )


@dataclass(frozen=True)
class HoldPorts:
    """Start the supervisor, which adopts running servers; write the class's files; bind all ports, IPv4 and IPv6."""

    starting: tuple[str, ...]
    """Students to be served now. The other students' ports are held as well, to keep other programs off them."""
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "hold the class's ports"

    def apply(self, host: Host) -> None:
        _require_reachable_interpreter()
        _ensure_system_accounts(host)
        with client.start(host.paths) as supervisor:
            notebook = host.settings.notebook
            first_use = notebook.preload_when == "first-use"
            supervisor.prepare(notebook.spawner, at_first_use=first_use, kernels=kernels.preload(host.settings))
            _hold_front_port(supervisor, host)
            _write_classfiles(host)
            claims = host.ledger.claims()
            seats = [
                PortWanted(member.port, member.username, claims[member.username].account.uid)
                for member in host.ledger.members(host.settings.course).values()
                if member.username in claims
            ]
            errors, _notes = supervisor.bind(seats, host.settings.web.bind, nginx.wanted(host))
        for username, error in errors.items():
            log.warning("%s: %s", username, error.problem)
        if failures := {name: errors[name].problem for name in self.starting if name in errors}:
            raise SomeFailed(failures)


@dataclass(frozen=True)
class StartServers:
    """Several at a time, each with a deadline; ready when its own URL answers. On demand: when the student comes."""

    usernames: tuple[str, ...]
    on_demand: bool = False

    def describe(self) -> str:
        when = " when their students come" if self.on_demand else ""
        return f"start {shutdown.servers_of(self.usernames)}{when}"

    def apply(self, host: Host) -> None:
        host.course_ledger.set_desired(self.usernames, "asleep" if self.on_demand else "up")
        orders, failures = orders_of(host, self.usernames)
        if front_page.is_up(host) and nginx.lacks_an_authority(host):
            front_page.StartFrontPage().apply(host)
        known: list[Outcome] = []

        def on_event(outcome: Outcome) -> None:
            log.info("%s: %s %s", outcome.username, outcome.state.value, outcome.reason)
            known.append(outcome)
            host.tell(f"{outcome.username}: {outcome.state.value}", len(known), len(orders))

        with client.start(host.paths) as supervisor:
            if self.on_demand:
                outcomes = readiness.arm_servers(supervisor, orders, on_event=on_event)
            else:
                outcomes = readiness.start_servers(
                    supervisor,
                    orders,
                    concurrency=_at_a_time(host.settings.notebook.spawner, len(orders)),
                    deadline=host.settings.notebook.start_deadline,
                    on_event=on_event,
                    addresses=host.settings.web.bind,
                )
        begun = {outcome.username for outcome in outcomes if not outcome.was_running}
        classroom.record_started(host, [order for order in orders if order.spec.username in begun])
        for outcome in outcomes:
            if outcome.state not in SERVED:
                failures[outcome.username] = _why(host, outcome)
        if failures:
            raise SomeFailed(failures)


def orders_of(host: Host, usernames: Sequence[str]) -> tuple[list[ServerOrder], dict[str, str]]:
    """What these students' servers are started with, and who cannot have one, and why."""
    passwords = hashes.read(host.paths.hashes)
    ports = host.ledger.members(host.settings.course)
    issue = classroom.issuer(host)
    orders: list[ServerOrder] = []
    failures: dict[str, str] = {}
    for name in usernames:
        try:
            orders.append(classroom.server_order(host, name, ports[name].port, passwords.get(name), issue))
        except HostError as error:
            failures[name] = f"{error.problem} ({error.hint})"
    return orders, failures


def _at_a_time(spawner: str, servers: int) -> int:
    """How many servers start together: enough to keep the cores busy, and no more than fit into memory. Jobs do not
    start on this host.
    """
    if spawner == SLURM:
        return max(1, servers)
    return max(1, min(2 * (os.cpu_count() or 1), memory.room().servers(spawner)))


def _require_reachable_interpreter() -> None:
    package = Path(nblauncher.__file__).parent
    places = {"Python": Path(sys.executable), "its environment": Path(sys.prefix), "nblauncher": package}
    for finding in machine.reachable("interpreter", places):
        if finding.level == "problem":
            raise RefusedError(finding.message, finding.hint)


def _ensure_system_accounts(host: Host) -> None:
    """Under the accounts' lock only if one is missing: a long `setup` of another course must not block a launch."""
    with ExitStack() as stack:
        locks = list(host.locks)
        if any(host.accounts.lookup(name) is None for name in SYSTEM_ACCOUNTS):
            locks.append(stack.enter_context(locked(host_lock(host), "this host's accounts")))
        host.accounts.ensure_system_accounts(locks=locks)


def _hold_front_port(supervisor: Client, host: Host) -> None:
    """Bind the front page's port first and alone: if students cannot arrive, start nothing."""
    web = host.settings.web
    errors, _notes = supervisor.bind([PortWanted(web.port)], web.bind, nginx.wanted(host))
    if "" not in errors:
        return
    states = [report.state for report in supervisor.servers()] + [supervisor.front_page().state]
    if not any(state in shutdown.RUNNING for state in states):
        supervisor.end(grace=0)
    raise errors[""]


def _write_classfiles(host: Host) -> None:
    try:
        class_files.write(host.paths.run, _kernels(host))
        wording.write(host)
    except OSError as error:
        raise HostError(f"cannot write below {host.paths.run}: {error.strerror}") from error


def files_are_current(host: Host) -> bool:
    """Whether new kernels, and the pages of servers, would be as the config says now."""
    return class_files.are_current(host.paths.run, _kernels(host)) and wording.is_written(host)


def _kernels(host: Host) -> class_files.Kernels:
    notebook = host.settings.notebook
    python = kernels.python_of(host.settings)
    spec = profile.kernelspec(python, host.settings.profile) if host.settings.profile else None
    extras = shared_data.offered(kernels.prefix_of(host.settings), python).extras
    if notebook.spawner != "forkserver":
        return class_files.Kernels(spec, python, has_debugger=kernels.has_debugger(python), extras=extras)
    socket, has_debugger = host.paths.kernels_socket, kernels.has_debugger(python)
    return class_files.Kernels(spec, python, socket, notebook.preload, has_debugger, extras)


def _why(host: Host, outcome: Outcome) -> str:
    last = f": {outcome.last_lines[-1]}" if outcome.last_lines else ""
    if host.settings.notebook.spawner == SLURM:
        return f"{outcome.reason}; what the job wrote is in ~{outcome.username}/{job_file.FOLDER}"
    return f"{outcome.reason}{last}; see {client.log_file(host.paths, outcome.username)}"
