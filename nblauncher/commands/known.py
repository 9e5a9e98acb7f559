"""`check` from the command line: inputs with all their problems, what the ledger knows, then the preflight."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from nblauncher import assignments, material
from nblauncher.assignments import Known as Outline
from nblauncher.commands import check, folders, packages, session, shutdown
from nblauncher.commands.check import Finding, Known
from nblauncher.commands.session import Caller
from nblauncher.errors import NblauncherError
from nblauncher.host import Host, this_host
from nblauncher.survey import listening_ports


def findings(who: Caller, config: Path | None, files: tuple[Path, ...]) -> list[Finding]:
    """Everything that `check` says. Problems of config and roster are findings too, so nothing is raised for them."""
    file = session.config_file(config, files)
    settings, roster, problems, contents = check.read_inputs(
        file, session.given_roster(files), allowed_uids=session.trusted_uids(who, file)
    )
    known = Known()
    if settings is not None:
        try:
            host = this_host(settings, session.owner_of(who, settings))
            known = check.known_of(host, roster, _held_ports(host, who), _served(host, who))
            known = replace(known, folders=_folders(host, who), captured=_captured(host, who))
            if not problems:
                known = replace(known, packages=packages.wanted(settings, contents))
        except NblauncherError as error:
            problems += error.problems
    return check.checks(settings, roster, problems, known)


def _folders(host: Host, who: Caller) -> Outline | None:
    """Only root and the teacher may look into the material."""
    if not host.settings.deadlines or not (who.is_root or os.geteuid() == host.owner.uid):
        return None
    if who.is_root:
        return folders.known(host)
    index = material.names(host.settings.material, host.owner)
    return assignments.known((item.path for item in index.items), index.exclusions)


def _captured(host: Host, who: Caller) -> frozenset[str]:
    return folders.captured(host) if who.is_root else frozenset()


def _served(host: Host, who: Caller) -> frozenset[str]:
    """Students whose servers run."""
    reports = shutdown.reports(host) if who.is_root else ()
    return frozenset(report.username for report in reports if report.state in shutdown.RUNNING)


def _held_ports(host: Host, who: Caller) -> frozenset[int]:
    """Ports of the course that its running class holds: that they are taken is no problem."""
    if not who.is_root or not host.paths.supervisor_socket.exists():
        return frozenset()
    course = host.settings.course
    own = frozenset(port for port, (owner, _name) in host.ledger.ports().items() if owner == course)
    return (own | {host.settings.web.port}) & listening_ports()
