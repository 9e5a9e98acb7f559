"""launch: a notebook server per student and the front page, in a supervisor that outlives the terminal."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nblauncher import classfiles, hashes, memory, namespaces, profile, shared_data, survey
from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.commands import appointments, classroom, disks, folders, freeze, front_page, pending, proxy, shutdown
from nblauncher.commands.setup import AcceptInputs
from nblauncher.errors import HostError, RefusedError
from nblauncher.host import Host, host_lock
from nblauncher.ledger import locked
from nblauncher.model import AccountState, ServerState
from nblauncher.plan import Phase, Plan, Report, SomeFailed
from nblauncher.preflight import kernels, storage, system
from nblauncher.preflight.ports import bind_trouble
from nblauncher.settings import Settings
from nblauncher.supervisor import client, starting
from nblauncher.supervisor.client import Client, PortWanted, ServerOrder
from nblauncher.supervisor.ports import NO_IPV6
from nblauncher.supervisor.starting import Outcome
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

SERVED = (ServerState.READY, ServerState.ASLEEP)
"""A student who comes finds a server, at once or after a moment."""

_SERVABLE = (AccountState.COMPLETE, AccountState.CHANGED, AccountState.GUEST)


def prepare(
    host: Host, usernames: Sequence[str], contents: Sequence[tuple[str, bytes]], *, on_demand: bool = False
) -> Plan:
    """Survey and plan. `on_demand`: whatever notebook.start says. InputError when the administrator's certificate
    cannot serve the class.
    """
    require_kernels(host)
    require_isolation(host)
    require_proxy(host)
    remarks = folders.require_accepted(host, is_attended=bool(contents))
    on_demand = on_demand or host.settings.notebook.start == "on-demand"
    accepted = AcceptInputs(tuple((name, content) for name, content in contents if name == "notebooks.cfg"))
    reports = shutdown.reports(host)
    running = {report.username for report in reports if report.state is ServerState.READY}
    asleep = {report.username for report in reports if report.state is ServerState.ASLEEP} if on_demand else set()
    frozen = set(freeze.remembered(host)).intersection(usernames)
    still = f"frozen, and left alone until `nblauncher thaw`: {', '.join(sorted(frozen))}"
    made = plan(
        usernames,
        survey.survey(host, usernames),
        running=running | frozen | asleep.difference(classroom.outdated(host, asleep)),
        outdated=classroom.outdated(host, running),
        on_demand=on_demand,
        front_page_is_current=front_page.is_current(host),
        files_are_current=files_are_current(host),
        appointments_are_current=appointments.are_current(host),
        new_inputs=None if accepted.is_done(host) else accepted,
        without_quota=disks.unlimited(host, usernames),
        warnings=(
            *_warnings(host.settings),
            *([still] if frozen else ()),
            *pending.missed(host, datetime.now(timezone.utc)),
            *remarks,
        ),
    )
    refuse_what_does_not_fit(made, host.settings.notebook.spawner)
    return made


def require_kernels(host: Host) -> None:
    """RefusedError when the config names a new Python for the kernels and none can run with it."""
    python = host.settings.notebook.kernel_python
    if python is not None and not files_are_current(host):
        for finding in kernels.kernel_python(python):
            if finding.level == "problem":
                raise RefusedError(finding.message, finding.hint)


def require_isolation(host: Host) -> None:
    """RefusedError when students are to be kept apart and this host cannot."""
    if host.settings.isolation and (why := namespaces.objection()):
        raise RefusedError(
            f"students cannot be kept apart on this host: {why}",
            "Set `isolation: off` in the config if you know your students, or use another host.",
        )


def require_proxy(host: Host) -> None:
    """As proxy.require, and for a certificate of the administrator's."""
    proxy.require(host)
    if host.settings.tls.mode == "files":
        classroom.own_files(host)


def refuse_what_does_not_fit(plan: Plan, spawner: str) -> None:
    """RefusedError where the host has no memory for the servers that would be started at once."""
    count = sum(len(step.usernames) for step in plan.steps if isinstance(step, StartServers) and not step.on_demand)
    room = memory.room()
    if count > room.servers(spawner):
        raise RefusedError(*storage.does_not_fit(room, spawner, count))


def plan(
    usernames: Sequence[str],
    facts: Facts,
    *,
    running: Collection[str],
    front_page_is_current: bool,
    files_are_current: bool = True,
    appointments_are_current: bool = True,
    outdated: Sequence[str] = (),
    on_demand: bool = False,
    new_inputs: AcceptInputs | None = None,
    without_quota: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Plan:
    """Servers for those who are set up and not served yet; then the front page, when it must know something new."""
    if not facts.members:
        raise HostError("nobody is set up in this course yet", "Run `nblauncher setup` first.")
    leaving = [name for name in usernames if name in facts.locked]
    asked_for = [name for name in usernames if name not in facts.locked]
    missing = tuple(name for name in asked_for if _is_set_up(name, facts) and name not in running)
    return Plan(
        (
            Phase("not set up", tuple(NotSetUp((name,)) for name in asked_for if not _is_set_up(name, facts))),
            *([Phase("disk quotas", tuple(map(disks.LimitDisk, without_quota)))] if without_quota else []),
            *starting_phases(
                missing,
                on_demand,
                front_page_is_current,
                files_are_current,
                new_inputs,
                appointments_are_current=appointments_are_current,
            ),
        ),
        (
            *(f"{name} is not served: the removal began and did not finish" for name in leaving),
            *([outdated_words(outdated)] if outdated else []),
            *warnings,
        ),
    )


def starting_phases(
    missing: tuple[str, ...],
    on_demand: bool,
    front_page_is_current: bool,
    files_are_current: bool,
    new_inputs: AcceptInputs | None = None,
    *,
    appointments_are_current: bool = True,
) -> tuple[Phase, ...]:
    """Ports, servers and front page, for `reload` as well."""
    is_complete = not missing and front_page_is_current and files_are_current
    return (
        Phase("hold the ports", () if is_complete else (HoldPorts(missing),)),
        Phase("start servers", (StartServers(missing, on_demand),) if missing else ()),
        # Before the front page, which is started again from them when it dies.
        Phase("inputs", (new_inputs,) if new_inputs else ()),
        # What is started then works with the accepted config.
        Phase("appointments", () if appointments_are_current else (appointments.MakeAppointments(),)),
        Phase("front page", () if front_page_is_current else (front_page.StartFrontPage(),)),
    )


@dataclass(frozen=True)
class NotSetUp:
    """A student who was asked for and cannot be served."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"leave {self.usernames[0]} out, who is not set up"

    def apply(self, host: Host) -> None:
        raise HostError("not set up", "run `nblauncher setup`")


@dataclass(frozen=True)
class HoldPorts:
    """The supervisor, which adopts what still runs; the class's files; everybody's port, on IPv4 and IPv6."""

    starting: tuple[str, ...]
    """Whose port is needed now. The others' are held as well, so that nobody else gets them."""
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
            errors, _notes = supervisor.bind(seats, host.settings.web.bind, proxy.wanted(host))
        for username, error in errors.items():
            log.warning("%s: %s", username, error.problem)
        if failures := {name: errors[name].problem for name in self.starting if name in errors}:
            raise SomeFailed(failures)


@dataclass(frozen=True)
class StartServers:
    """Several at a time, each with a deadline; ready when its own URL answers. Or each when its student comes."""

    usernames: tuple[str, ...]
    on_demand: bool = False

    def describe(self) -> str:
        when = " when their students come" if self.on_demand else ""
        return f"start {shutdown.servers_of(self.usernames)}{when}"

    def apply(self, host: Host) -> None:
        host.course_ledger.set_desired(self.usernames, "asleep" if self.on_demand else "up")
        orders, failures = self._orders(host)

        def known(outcome: Outcome) -> None:
            log.info("%s: %s %s", outcome.username, outcome.state.value, outcome.reason)
            host.tell(f"{outcome.username}: {outcome.state.value}")

        with client.start(host.paths) as supervisor:
            if self.on_demand:
                outcomes = starting.lay_down_servers(supervisor, orders, on_event=known)
            else:
                outcomes = starting.start_servers(
                    supervisor,
                    orders,
                    concurrency=_at_a_time(host.settings.notebook.spawner),
                    deadline=host.settings.notebook.start_deadline,
                    on_event=known,
                    addresses=host.settings.web.bind,
                )
        begun = {outcome.username for outcome in outcomes if not outcome.was_running}
        classroom.remember_told(host, [order for order in orders if order.spec.username in begun])
        for outcome in outcomes:
            if outcome.state not in SERVED:
                failures[outcome.username] = _why(host, outcome)
        if failures:
            raise SomeFailed(failures)

    def _orders(self, host: Host) -> tuple[list[ServerOrder], dict[str, str]]:
        passwords = hashes.read(host.paths.hashes)
        ports = host.ledger.members(host.settings.course)
        issue = classroom.issuer(host)
        orders: list[ServerOrder] = []
        failures: dict[str, str] = {}
        for name in self.usernames:
            try:
                orders.append(classroom.server_order(host, name, ports[name].port, passwords.get(name), issue))
            except HostError as error:
                failures[name] = f"{error.problem} ({error.hint})"
        return orders, failures


def served_words(report: Report) -> str:
    """`28 of 30 servers are ready`, or with servers that sleep `3 of 30 servers are ready, 27 start when ...`."""
    states = [student.details.get("server") for student in report.students.values()]
    ready, asleep = states.count(ServerState.READY.value), states.count(ServerState.ASLEEP.value)
    more = f", {asleep} start when their students come" if asleep else ""
    if frozen := states.count(ServerState.FROZEN.value):
        more += f", {frozen} {'is' if frozen == 1 else 'are'} frozen"
    return f"{ready} of {len(states)} servers are ready{more}"


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """url, port and state of each student's server, for the report."""
    members = host.ledger.members(host.settings.course)
    states, frozen = {report.username: report.state for report in shutdown.reports(host)}, freeze.words(host)
    return {
        name: {
            "server": freeze.shown(states.get(name, ServerState.STOPPED), name in frozen).value,
            "port": members[name].port,
            "url": host.frontend.route(name, members[name].port).url,
        }
        for name in usernames
        if name in members
    }


def _is_set_up(name: str, facts: Facts) -> bool:
    return name in facts.members and name in facts.with_passwords and facts.state(name) in _SERVABLE


def outdated_words(names: Sequence[str]) -> str:
    who = ", ".join(names) if len(names) <= 5 else shutdown.servers_of(names)
    return f"{who}: running with an older config; `nblauncher shutdown` and `launch` bring the new one"


def _warnings(settings: Settings) -> tuple[str, ...]:
    warnings = []
    if settings.tls.mode == "off":
        warnings.append("tls.mode is off: passwords and work cross the network in the clear")
    if settings.tls.mode == "files" and settings.web.frontend == "direct":
        warnings.append("tls.share_key_with_students is on: every student can read the key of tls.key")
    if not settings.web.bind and bind_trouble(socket.AF_INET6, "::", 0) in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
        warnings.append(NO_IPV6)
    return tuple(warnings)


def _at_a_time(spawner: str) -> int:
    """How many servers start together: as many as keep the cores busy, and no more than memory has room for."""
    return max(1, min(2 * (os.cpu_count() or 1), memory.room().servers(spawner)))


def _require_reachable_interpreter() -> None:
    package = Path(__file__).parent.parent
    places = {"Python": Path(sys.executable), "its environment": Path(sys.prefix), "nblauncher": package}
    for finding in system.reachable("interpreter", places):
        if finding.level == "problem":
            raise RefusedError(finding.message, finding.hint)


def _ensure_system_accounts(host: Host) -> None:
    """Two launches at once must not both make them; where they are there, a long `setup` elsewhere stops no launch."""
    with ExitStack() as stack:
        locks = list(host.locks)
        if any(host.accounts.lookup(name) is None for name in SYSTEM_ACCOUNTS):
            locks.append(stack.enter_context(locked(host_lock(host), "this host's accounts")))
        host.accounts.ensure_system_accounts(locks=locks)


def _hold_front_port(supervisor: Client, host: Host) -> None:
    """First of all, and alone: where students cannot arrive, nothing is begun."""
    web = host.settings.web
    errors, _notes = supervisor.bind([PortWanted(web.port)], web.bind, proxy.wanted(host))
    if "" not in errors:
        return
    states = [report.state for report in supervisor.servers()] + [supervisor.front_page().state]
    if not any(state in shutdown.RUNNING for state in states):
        supervisor.end(grace=0)
    raise errors[""]


def _write_classfiles(host: Host) -> None:
    try:
        classfiles.write(host.paths.run, _kernels(host))
    except OSError as error:
        raise HostError(f"cannot write below {host.paths.run}: {error.strerror}") from error


def files_are_current(host: Host) -> bool:
    """Whether new kernels are what the config says now."""
    return classfiles.are_current(host.paths.run, _kernels(host))


def _kernels(host: Host) -> classfiles.Kernels:
    notebook = host.settings.notebook
    python = kernels.python_of(host.settings)
    spec = profile.kernelspec(python, host.settings.profile) if host.settings.profile else None
    extras = shared_data.offered(kernels.prefix_of(host.settings), python).extras
    if notebook.spawner != "forkserver":
        return classfiles.Kernels(spec, python, has_debugger=kernels.has_debugger(python), extras=extras)
    socket, has_debugger = host.paths.kernels_socket, kernels.has_debugger(python)
    return classfiles.Kernels(spec, python, socket, notebook.preload, has_debugger, extras)


def _why(host: Host, outcome: Outcome) -> str:
    last = f": {outcome.last_lines[-1]}" if outcome.last_lines else ""
    return f"{outcome.reason}{last}; see {client.log_file(host.paths, outcome.username)}"
