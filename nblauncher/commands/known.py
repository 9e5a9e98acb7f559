"""`check` from the command line: inputs with all their problems, what the ledger knows, then the preflight.

Whatever `setup` or `launch` would refuse is looked at by what refuses it there.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nblauncher import assignments, credentials, examining, material, packing, survey
from nblauncher.accounts import nonce_in
from nblauncher.assignments import Known as Outline
from nblauncher.commands import check, folders, packages, session, setup, shutdown
from nblauncher.commands.check import Finding, Known
from nblauncher.commands.session import Caller
from nblauncher.errors import NblauncherError, RefusedError
from nblauncher.host import Host, this_host
from nblauncher.material import Index
from nblauncher.model import AccountState, Roster
from nblauncher.preflight.finding import problem
from nblauncher.printable import printable
from nblauncher.profile import read_profile
from nblauncher.settings import Settings
from nblauncher.survey import Facts, listening_ports

_T = TypeVar("_T")


def findings(who: Caller, config: Path | None, files: tuple[Path, ...]) -> list[Finding]:
    """Everything that `check` says. Problems of config and roster are findings too, so nothing is raised for them."""
    file = session.config_file(config, files)
    settings, roster, problems, contents = check.read_inputs(
        file, session.given_roster(files), allowed_uids=session.trusted_uids(who, file)
    )
    known = Known() if settings is None else _known(who, file, settings, roster)
    if settings is not None and not problems:
        known = replace(known, packages=packages.wanted(settings, contents))
    return check.checks(settings, roster, problems, known)


class _Looks:
    """Looks at one thing after another: what one of them comes upon is a finding and hides nothing else."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def at(self, subject: str, look: Callable[[], _T]) -> _T | None:
        """None where it failed."""
        try:
            return look()
        except NblauncherError as error:
            hint = error.hint or "Mend it, and run `nblauncher check` again."
            self.found += [problem(subject, words, hint) for words in error.problems]
            return None


def _known(who: Caller, file: Path, settings: Settings, roster: Roster | None) -> Known:
    looks = _Looks()
    looks.at("course", lambda: session.refuse_another_place(who, settings.course, file))
    owner = looks.at("owner", lambda: session.owner_of(who, settings))
    host = looks.at("system", lambda: this_host(settings, owner)) if owner else None
    if host is None:
        return Known(refusals=looks.found)
    known = looks.at("state", lambda: known_of(host, roster)) or Known(
        frontend=host.frontend, owner_home=host.owner.home
    )
    served = looks.at("class", lambda: _served(host, who))
    held = looks.at("class", lambda: _held_ports(host, who)) or frozenset()
    known = _with_material(looks, host, who, replace(known, own_ports=held, served=served))
    looks.found += [
        problem("accounts", words, "Rename it, or give it back to nblauncher: its system accounts are nobody else's.")
        for words in host.accounts.objections_to_system_accounts()
    ]
    return replace(known, refusals=looks.found)


def known_of(host: Host, roster: Roster | None) -> Known:
    """What the ledger knows, which only root reads; for others what everybody may see. HostError when it is damaged."""
    usernames = roster.usernames if roster else ()
    planned = host.settings.accounts
    homes = {name: planned.home / name for name in usernames if planned.create}
    known = Known(homes=homes, owner_home=host.owner.home, frontend=host.frontend)
    try:
        claims = host.ledger.claims()
    except RefusedError:
        facts = survey.outside(host, usernames)
        own_uids = frozenset(entry.pw_uid for entry in pwd.getpwall() if nonce_in(entry.pw_gecos))
        return _with_roster(replace(known, own_uids=own_uids, members=facts.in_group), roster, facts, host.settings)
    ports_of = {record.course: {record.front_port} for record in host.ledger.courses()}
    for port, (holder, _username) in host.ledger.ports().items():
        ports_of.setdefault(holder, set()).add(port)
    facts = survey.survey(host, usernames)
    known = replace(
        known,
        allotted_ports=frozenset(ports_of.pop(host.settings.course, ())) - {host.settings.web.port},
        other_courses=ports_of,
        own_uids=host.ledger.spent_uids() | {claim.account.uid for claim in claims.values()},
        members=frozenset(facts.members),
        captured=folders.captured(host),
        homes=homes
        | {name: claim.account.home for name, claim in claims.items() if claim.account.uid != host.owner.uid},
    )
    return _with_roster(known, roster, facts, host.settings)


def _with_roster(known: Known, roster: Roster | None, facts: Facts, settings: Settings) -> Known:
    """Names that this host cannot take, and homes that are there before their accounts."""
    wanted = roster or Roster()
    new = [name for name in wanted.usernames if facts.state(name) in (AccountState.ABSENT, AccountState.VANISHED)]
    planned = [settings.accounts.home / name for name in new if settings.accounts.create]
    return replace(
        known,
        objections=setup.objections(wanted, facts, settings),
        taken_homes=[home for home in planned if os.path.lexists(home)],
    )


def _with_material(looks: _Looks, host: Host, who: Caller, known: Known) -> Known:
    """What goes out, and where the passwords go: read as the owner, whom only root and the owner can be."""
    source = host.settings.material
    if not (who.is_root or _is_owner(host)):
        looks.at("material", lambda: _require_folder(source.source))
        return known
    index = looks.at("material", lambda: material.names(source, host.owner))
    if host.settings.profile:
        looks.at("profile", lambda: read_profile(host.owner, host.settings.profile))
    looks.found += _refused_credentials(looks, host)
    if index is None:
        return known
    paths = [item.path for item in index.items]
    notebooks = looks.at("material", lambda: examining.faults(host.owner, source.source, paths)) or {}
    held = looks.at("deadlines", lambda: _outline(host, who, index)) if host.settings.deadlines else None
    return replace(known, notebooks=notebooks, folders=held)


def _is_owner(host: Host) -> bool:
    """Without root nobody reads whose the course is: who calls takes it for their own, which only the config's owner
    does rightly.
    """
    file = host.settings.file
    return os.geteuid() == host.owner.uid and (file is None or file.stat().st_uid == host.owner.uid)


def _require_folder(source: Path) -> None:
    """What somebody else than the owner can see of the material."""
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError:
        return
    if not is_folder:
        raise packing.no_source(source)


def _outline(host: Host, who: Caller, index: Index) -> Outline:
    if who.is_root:
        return folders.known(host, index)
    return assignments.known((item.path for item in index.items), index.exclusions)


def _refused_credentials(looks: _Looks, host: Host) -> list[Finding]:
    file = host.settings.credentials
    why = looks.at("credentials", lambda: credentials.objection(host.owner, file))
    hint = "Move what is in the way, or set `credentials` anew."
    return [problem("credentials", f"{printable(str(file))} cannot be written: {printable(why)}", hint)] if why else []


def _served(host: Host, who: Caller) -> frozenset[str] | None:
    """Students whose servers run; only root is told by a class that runs."""
    if not who.is_root:
        return None if host.paths.supervisor_socket.exists() else frozenset()
    return frozenset(report.username for report in shutdown.reports(host) if report.state in shutdown.RUNNING)


def _held_ports(host: Host, who: Caller) -> frozenset[int]:
    """Ports that the running class holds: that they are taken is no problem. Who is not root cannot read which were
    allotted, and takes any listener of root's for the class's.
    """
    if not host.paths.supervisor_socket.exists():
        return frozenset()
    if not who.is_root:
        return listening_ports(uid=0)
    course = host.settings.course
    own = frozenset(port for port, (owner, _name) in host.ledger.ports().items() if owner == course)
    return (own | {host.settings.web.port}) & listening_ports()
