"""launch: a notebook server per student and the front page, in a supervisor that outlives the terminal."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from nblauncher import classfiles, hashes, profile, survey, tls, tls_files
from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.commands import shutdown
from nblauncher.errors import HostError, RefusedError
from nblauncher.host import Host
from nblauncher.model import Account, AccountState, ServerState, TlsFiles
from nblauncher.plan import Details, Phase, Plan, SomeFailed
from nblauncher.preflight import system
from nblauncher.server_config import ServerConfig
from nblauncher.supervisor import client, starting
from nblauncher.supervisor.client import PortWanted, ServerOrder
from nblauncher.supervisor.specs import FrontPageSpec, ServerSpec
from nblauncher.survey import Facts
from nblauncher.web.inputs import ClassPage, Enrolled, render_config

FRONT_PAGE_DEADLINE = 30.0
"""Seconds until the front page must answer."""

_SERVED = (AccountState.COMPLETE, AccountState.CHANGED, AccountState.GUEST)


def prepare(host: Host, usernames: Sequence[str]) -> Plan:
    """Survey and plan: what runs already is adopted, and only what is missing is started."""
    facts = survey.survey(host, usernames)
    running = {report.username for report in shutdown.reports(host) if report.state is ServerState.READY}
    return plan(usernames, facts, running=running, front_page_is_up=_front_page_is_current(host), tls_mode=_mode(host))


def plan(usernames: Sequence[str], facts: Facts, *, running: set[str], front_page_is_up: bool, tls_mode: str) -> Plan:
    """Servers for those who are set up and not served yet; then the front page."""
    ready = [name for name in usernames if _is_set_up(name, facts)]
    missing = tuple(name for name in ready if name not in running)
    if not facts.members:
        raise HostError("nobody is set up in this course yet", "Run `nblauncher setup` first.")
    return Plan(
        (
            Phase("begin the class", () if not missing and front_page_is_up else (BeginClass(),)),
            Phase("start servers", (StartServers(missing),) if missing else ()),
            Phase("front page", () if front_page_is_up else (StartFrontPage(),)),
        ),
        (
            *(f"{name} is not set up (run `nblauncher setup`)" for name in usernames if name not in ready),
            *_tls_notes(tls_mode),
        ),
    )


@dataclass(frozen=True)
class BeginClass:
    """The supervisor, which adopts what still runs; the class's files; every port, on IPv4 and IPv6."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "hold the class's ports"

    def apply(self, host: Host) -> None:
        _require_reachable_interpreter()
        host.accounts.ensure_system_accounts(locks=host.locks)
        name = host.settings.profile
        classfiles.write(host.paths.run, profile.kernelspec(sys.executable, name) if name else None)
        claims = host.ledger.claims()
        seats = [
            PortWanted(member.port, member.username, claims[member.username].account.uid)
            for member in host.ledger.members(host.settings.course).values()
            if member.username in claims
        ]
        with client.start(host.paths) as supervisor:
            front = PortWanted(host.settings.web.port)
            errors, _notes = supervisor.bind([front, *seats], host.settings.web.bind)
        if "" in errors:
            raise errors[""]


@dataclass(frozen=True)
class StartServers:
    """Several at a time, each with a deadline; ready when its own URL answers."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"start {len(self.usernames)} servers"

    def apply(self, host: Host) -> Mapping[str, Details]:
        host.course_ledger.set_desired(self.usernames, "up")
        orders, failures = self._orders(host)
        with client.start(host.paths) as supervisor:
            outcomes = starting.start_servers(
                supervisor,
                orders,
                concurrency=2 * (os.cpu_count() or 1),
                deadline=host.settings.notebook.start_deadline,
                on_event=lambda _outcome: None,
                addresses=host.settings.web.bind,
            )
        for outcome in outcomes:
            if outcome.state is not ServerState.READY:
                last = f": {outcome.last_lines[-1]}" if outcome.last_lines else ""
                failures[outcome.username] = f"{outcome.reason}{last}"
        if failures:
            raise SomeFailed(failures, "Their logs are in " + str(host.paths.logs))
        return {name: {"server": ServerState.READY.value} for name in self.usernames}

    def _orders(self, host: Host) -> tuple[list[ServerOrder], dict[str, str]]:
        passwords = hashes.read(host.paths.hashes)
        ports = host.ledger.members(host.settings.course)
        issue = _leaves(host)
        orders: list[ServerOrder] = []
        failures: dict[str, str] = {}
        for name in self.usernames:
            try:
                account = survey.student_account(host, name)
                if name not in passwords:
                    raise HostError("the hash of the notebook password is gone")
                config = server_config(host, account, ports[name].port, passwords[name])
                orders.append(ServerOrder(server_spec(host, account, ports[name].port), config, issue(name)))
            except HostError as error:
                failures[name] = error.problem
        return orders, failures


@dataclass(frozen=True)
class StartFrontPage:
    """The sign-in page, as the account `nblauncher`, with the hashes of everybody in the course."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "start the front page"

    def apply(self, host: Host) -> None:
        config = render_config(class_page(host))
        with client.start(host.paths) as supervisor:
            supervisor.stop_front_page()
            spec = FrontPageSpec(_front_account(), host.settings.web.port, _restart_command(host))
            supervisor.start_front_page(spec, config, _leaves(host)(""))
            report = supervisor.wait_for_front_page(FRONT_PAGE_DEADLINE)
        if report.state is not ServerState.READY:
            last = f": {report.last_lines[-1]}" if report.last_lines else ""
            raise HostError(f"the front page did not start ({report.reason}{last})", f"See {host.paths.logs}.")
        hashes.write_private(_digest_file(host), _digest(host).encode("ascii"))


def class_page(host: Host) -> ClassPage:
    """What the front page must know. It holds hashes: sealed memory files only."""
    authority = _authority(host) if host.settings.tls.mode == "class-ca" else None
    return ClassPage(
        course=host.settings.course,
        interface=host.settings.notebook.interface,
        front_port=host.settings.web.port,
        hosts=frozenset(host.frontend.hosts),
        has_tls=host.settings.tls.mode != "off",
        ca_pem=authority.certificate if authority else None,
        ca_fingerprint=authority.fingerprint if authority else None,
        students=enrolled(host),
    )


def enrolled(host: Host) -> dict[str, Enrolled]:
    """Everybody who may sign in."""
    passwords = hashes.read(host.paths.hashes)
    claims = host.ledger.claims()
    return {
        name: Enrolled(claims[name].account.uid, member.port, passwords[name])
        for name, member in host.ledger.members(host.settings.course).items()
        if name in passwords and name in claims
    }


def server_config(host: Host, account: Account, port: int, hashed_password: str) -> bytes:
    """The secret half of what a student's server is told."""
    return ServerConfig(
        username=account.username,
        hashed_password=hashed_password,
        port=port,
        front_port=host.settings.web.port,
        tickets_socket=str(host.paths.tickets_socket),
        home=str(account.home),
        target=host.settings.material.target,
        settings_folder=str(classfiles.settings_folder(host.paths.run)),
        interface=host.settings.notebook.interface,
    ).to_bytes()


def server_spec(host: Host, account: Account, port: int) -> ServerSpec:
    return ServerSpec(
        username=account.username,
        uid=account.uid,
        gid=account.gid,
        home=str(account.home),
        port=port,
        shell=account.shell or host.settings.accounts.shell,
        environment=dict(host.settings.notebook.environment),
    )


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """url, port and state of each student's server, for the report."""
    members = host.ledger.members(host.settings.course)
    states = {report.username: report.state.value for report in shutdown.reports(host)}
    return {
        name: {
            "server": states.get(name, ServerState.STOPPED.value),
            "port": members[name].port,
            "url": host.frontend.route(name, members[name].port).url,
        }
        for name in usernames
        if name in members
    }


def _is_set_up(name: str, facts: Facts) -> bool:
    return name in facts.members and name in facts.with_passwords and facts.state(name) in _SERVED


def _mode(host: Host) -> str:
    return host.settings.tls.mode


def _tls_notes(mode: str) -> tuple[str, ...]:
    if mode == "off":
        return ("tls.mode is off: passwords and work cross the network in the clear",)
    if mode == "files":
        return ("tls.share_key_with_students is on: every student can read the key of tls.key",)
    return ()


def _require_reachable_interpreter() -> None:
    package = Path(__file__).parent.parent
    places = {"Python": Path(sys.executable), "its environment": Path(sys.prefix), "nblauncher": package}
    for finding in system.reachable("interpreter", places):
        if finding.level == "problem":
            raise RefusedError(finding.message, finding.hint)


def _authority(host: Host) -> tls.ClassCA:
    names, addresses = _names(host)
    return tls.ensure_class_ca(host.paths.tls, names, addresses, host.settings.course)


def _names(host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return host.frontend.names, host.frontend.addresses


def _leaves(host: Host) -> Callable[[str], TlsFiles | None]:
    """username → certificate and key of the student's server; "" is the front page. None where TLS is off."""
    settings = host.settings.tls
    if settings.mode == "off":
        return lambda _name: None
    names, addresses = _names(host)
    if settings.mode == "files":
        if settings.certificate is None or settings.key is None:
            raise RefusedError("tls.mode is files, and certificate or key is missing")
        files = tls_files.load_files(settings.certificate, settings.key, host.settings.web.names)
        return lambda _name: files
    authority = _authority(host)

    def issue(name: str) -> TlsFiles:
        folder = host.paths.tls / ("servers" if name else "front")
        return tls.ensure_leaf(authority, folder, name or "front", names, addresses)

    return issue


def _front_account() -> Account:
    entry = pwd.getpwnam(SYSTEM_ACCOUNTS[0])
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _restart_command(host: Host) -> tuple[str, ...]:
    """A fresh short-lived process of root's reads the secrets when the front page must start again."""
    if host.settings.file is None:
        return ()
    return (sys.executable, "-I", "-m", "nblauncher", "-c", str(host.settings.file), "launch", "--front-page-only")


def _front_page_is_current(host: Host) -> bool:
    """Whether it runs and knows the students, hosts and passwords of now."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    with supervisor:
        if supervisor.front_page().state is not ServerState.READY:
            return False
    try:
        return _digest_file(host).read_text("ascii") == _digest(host)
    except FileNotFoundError:
        return False


def _digest_file(host: Host) -> Path:
    return host.paths.run / "front-page.sha256"


def _digest(host: Host) -> str:
    """Of everything that a running front page was told and that may be another today."""
    told = [host.settings.tls.mode, host.settings.notebook.interface, host.settings.web.port, *host.frontend.hosts]
    return hashlib.sha256(
        json.dumps([told, [[name, *astuple(one)] for name, one in enrolled(host).items()]]).encode()
    ).hexdigest()
