"""Gathers what `check` needs: the inputs with all their problems, the ledger, the material; then runs the preflight.

What `setup` or `launch` would refuse is checked by the same code that refuses it there.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nblauncher.accounts import nonce_in
from nblauncher.auth import credentials
from nblauncher.commands import check, inputs, packages, session, setup, system_passwords
from nblauncher.commands.check import CheckFacts
from nblauncher.commands.deadlines import folders
from nblauncher.commands.running import shutdown
from nblauncher.commands.session import Caller
from nblauncher.config import assignments
from nblauncher.config.assignments import Known as Outline
from nblauncher.config.settings import Settings
from nblauncher.errors import NblauncherError, RefusedError
from nblauncher.exchange.send import material, notebook_check, teacher_side
from nblauncher.exchange.send.material import Index
from nblauncher.exchange.send.profile import read_profile
from nblauncher.model import AccountState, Roster
from nblauncher.planning import survey
from nblauncher.planning.host import Host, this_host
from nblauncher.planning.survey import Facts, listening_ports
from nblauncher.preflight.finding import Finding, problem
from nblauncher.printable import printable

_T = TypeVar("_T")


def findings(caller: Caller, config: Path | None, files: tuple[Path, ...]) -> list[Finding]:
    """Everything that `check` reports. Problems of config and roster are findings as well and are not raised."""
    file = session.config_file(config, files)
    settings, roster, problems, contents = inputs.read(
        file, session.given_roster(files), allowed_uids=session.trusted_uids(caller, file)
    )
    known = CheckFacts() if settings is None else _facts_of(caller, file, settings, roster)
    if settings is not None and not problems:
        known = replace(known, packages=packages.wanted(settings, contents))
    return check.checks(settings, roster, problems, known)


class _Looks:
    """Makes one look after the other. An error becomes a finding and does not hide the rest."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def at(self, subject: str, look: Callable[[], _T]) -> _T | None:
        """None if the look failed."""
        try:
            return look()
        except NblauncherError as error:
            hint = error.hint or "Fix it, then run `nblauncher check` again."
            self.found += [problem(subject, words, hint) for words in error.problems]
            return None


def _facts_of(caller: Caller, file: Path, settings: Settings, roster: Roster | None) -> CheckFacts:
    looks = _Looks()
    looks.at("course", lambda: session.refuse_another_place(caller, settings.course, file))
    owner = looks.at("owner", lambda: session.owner_of(caller, settings))
    host = looks.at("system", lambda: this_host(settings, owner)) if owner else None
    if host is None:
        return CheckFacts(refusals=looks.found)
    known = looks.at("state", lambda: ledger_facts(host, roster)) or CheckFacts(
        frontend=host.frontend, owner_home=host.owner.home
    )
    served = looks.at("class", lambda: _served(host, caller))
    held = looks.at("class", lambda: _held_ports(host, caller)) or frozenset()
    known = _with_material(looks, host, caller, replace(known, own_ports=held, served=served))
    looks.found += [
        problem("accounts", words, "Rename it, or give it back: only nblauncher may use its system accounts.")
        for words in host.accounts.objections_to_system_accounts()
    ]
    return replace(known, refusals=looks.found)


def ledger_facts(host: Host, roster: Roster | None) -> CheckFacts:
    """What the ledger says, which only root can read; else what is public. HostError when the ledger is damaged."""
    usernames = roster.usernames if roster else ()
    planned = host.settings.accounts
    homes = {name: planned.home / name for name in usernames if planned.create}
    known = CheckFacts(homes=homes, owner_home=host.owner.home, frontend=host.frontend)
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
    changed = system_passwords.changes(roster or Roster(), facts, host.settings)
    known = replace(
        known,
        to_generate=len(changed.to_generate),
        to_disable=len(changed.to_disable),
        allotted_ports=frozenset(ports_of.pop(host.settings.course, ())) - {host.settings.web.port},
        other_courses=ports_of,
        own_uids=host.ledger.spent_uids() | {claim.account.uid for claim in claims.values()},
        members=frozenset(facts.members),
        captured=folders.captured(host),
        homes=homes
        | {name: claim.account.home for name, claim in claims.items() if claim.account.uid != host.owner.uid},
        trial_student=next((claims[name].account for name in usernames if _can_have_jobs(name, facts)), None),
    )
    return _with_roster(known, roster, facts, host.settings)


def _can_have_jobs(username: str, facts: Facts) -> bool:
    return username in facts.members and facts.state(username) in (AccountState.COMPLETE, AccountState.GUEST)


def _with_roster(known: CheckFacts, roster: Roster | None, facts: Facts, settings: Settings) -> CheckFacts:
    """Names that this host cannot accept, and homes that exist before their accounts."""
    wanted = roster or Roster()
    new = [name for name in wanted.usernames if facts.state(name) in (AccountState.ABSENT, AccountState.VANISHED)]
    planned = [settings.accounts.home / name for name in new if settings.accounts.create]
    return replace(
        known,
        objections=setup.objections(wanted, facts, settings),
        taken_homes=[home for home in planned if os.path.lexists(home)],
    )


def _with_material(looks: _Looks, host: Host, caller: Caller, known: CheckFacts) -> CheckFacts:
    """The material and the credentials file, read as the owner: only root and the owner can do that."""
    source = host.settings.material
    if not (caller.is_root or _is_owner(host)):
        looks.at("material", lambda: _require_folder(source.source))
        return known
    index = looks.at("material", lambda: material.names(source, host.owner))
    if host.settings.profile:
        looks.at("profile", lambda: read_profile(host.owner, host.settings.profile))
    looks.found += _refused_credentials(looks, host)
    if index is None:
        return known
    paths = [item.path for item in index.items]
    notebooks = looks.at("material", lambda: notebook_check.faults(host.owner, source.source, paths)) or {}
    held = looks.at("deadlines", lambda: _outline(host, caller, index)) if host.settings.deadlines else None
    return replace(known, notebooks=notebooks, folders=held)


def _is_owner(host: Host) -> bool:
    """Only root can read who owns the course. Any other caller takes it for their own; that is right only for the
    owner of the config.
    """
    file = host.settings.file
    return os.geteuid() == host.owner.uid and (file is None or file.stat().st_uid == host.owner.uid)


def _require_folder(source: Path) -> None:
    """All that a caller other than the owner can check of the material."""
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError:
        return
    if not is_folder:
        raise teacher_side.no_source(source)


def _outline(host: Host, caller: Caller, index: Index) -> Outline:
    if caller.is_root:
        return folders.known(host, index)
    return assignments.known((item.path for item in index.items), index.exclusions)


def _refused_credentials(looks: _Looks, host: Host) -> list[Finding]:
    file = host.settings.credentials
    why = looks.at("credentials", lambda: credentials.objection(host.owner, file))
    hint = "Move what is in the way, or set `credentials` to another file."
    return [problem("credentials", f"{printable(str(file))} cannot be written: {printable(why)}", hint)] if why else []


def _served(host: Host, caller: Caller) -> frozenset[str] | None:
    """Students with a running server; only root can ask a running class."""
    if not caller.is_root:
        return None if host.paths.supervisor_socket.exists() else frozenset()
    return frozenset(report.username for report in shutdown.reports(host) if report.state in shutdown.RUNNING)


def _held_ports(host: Host, caller: Caller) -> frozenset[int]:
    """Ports that the running class holds: it is not a problem that they are taken. Without root the ledger cannot be
    read, so any listener of root counts as the class's.
    """
    if not host.paths.supervisor_socket.exists():
        return frozenset()
    if not caller.is_root:
        return listening_ports(uid=0)
    course = host.settings.course
    own = frozenset(port for port, (owner, _name) in host.ledger.ports().items() if owner == course)
    return (own | {host.settings.web.port}) & listening_ports()
