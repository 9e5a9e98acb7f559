"""`check` from the command line: inputs with all their problems, what the ledger knows, then the preflight."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nblauncher import inputs, roster, settings
from nblauncher.commands import check, session
from nblauncher.commands.check import Finding, Known
from nblauncher.commands.session import Caller
from nblauncher.errors import InputError, NblauncherError
from nblauncher.host import Host, this_host
from nblauncher.model import Roster
from nblauncher.settings import Settings
from nblauncher.survey import listening_ports


def findings(who: Caller, config: Path | None, files: tuple[Path, ...]) -> list[Finding]:
    """Everything that `check` says. Problems of config and roster are findings too, so nothing is raised for them."""
    problems: list[str] = []
    parsed = students = host = None
    try:
        parsed, trusted = _config(who, config, files)
        host = this_host(parsed, session.owner_of(who, parsed))
        students = _roster(parsed, trusted | {host.owner.uid})
    except NblauncherError as error:
        problems += error.problems
    return check.checks(parsed, students, problems, _known(host, who) if host else None)


def _config(who: Caller, config: Path | None, files: tuple[Path, ...]) -> tuple[Settings, frozenset[int]]:
    file = session.config_file(config, files)
    trusted = session.trusted_uids(who, file)
    parsed = settings.parse(inputs.read_trusted(file, allowed_uids=trusted), file)
    rosters = [one for one in files if one.suffix.lower() == ".csv"]
    if len(rosters) > 1:
        raise InputError(f"more than one roster was given: {', '.join(map(str, rosters))}")
    return (dataclasses.replace(parsed, students=rosters[0].absolute()) if rosters else parsed), trusted


def _roster(parsed: Settings, trusted: frozenset[int]) -> Roster:
    return roster.parse(inputs.read_trusted(parsed.students, allowed_uids=trusted), parsed.students.name)


def _known(host: Host, who: Caller) -> Known:
    """The ledger is for root alone; without it the preflight assumes that nothing was set up yet."""
    if not who.is_root:
        return Known(owner_home=host.owner.home, frontend=host.frontend)
    course = host.settings.course
    ports = host.ledger.ports()
    own = frozenset(port for port, (owner, _name) in ports.items() if owner == course)
    record = host.ledger.course(course)
    runs = host.paths.supervisor_socket.exists()
    held = (own | ({record.front_port} if record else frozenset())) & listening_ports()
    others: dict[str, list[int]] = {}
    for port, (owner, _name) in ports.items():
        if owner != course:
            others.setdefault(owner, []).append(port)
    for other in host.ledger.courses():
        if other.course != course:
            others.setdefault(other.course, []).append(other.front_port)
    claims = host.ledger.claims()
    return Known(
        allotted_ports=own,
        own_ports=held if runs else frozenset(),
        other_courses=others,
        own_uids=host.ledger.spent_uids(),
        homes={name: claims[name].account.home for name in host.ledger.members(course) if name in claims},
        owner_home=host.owner.home,
        frontend=host.frontend,
    )
