"""lock and unlock: a student who cannot sign in, at the front page, at their own server, or by su and ssh.

The ledger's folder remembers it, so that setup, launch and reload keep it; files, passwords and retrievals do not
change. For the account, which several courses may share: nblauncher.planning.lockouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nblauncher.accounts import sweep
from nblauncher.commands.enrolment import KeepLocked
from nblauncher.commands.running import front_page, shutdown, starting
from nblauncher.commands.running.renewal import TellFrontPage
from nblauncher.commands.running.starting import ClassNow
from nblauncher.errors import InputError
from nblauncher.ledger import locked, lockouts
from nblauncher.model import ServerState
from nblauncher.planning import lockouts as accounts
from nblauncher.planning import survey
from nblauncher.planning.host import Host, captures_lock
from nblauncher.planning.plan import ForOne, Phase, Plan
from nblauncher.printable import printable

_LONGEST_CAPTURE = 120.0
"""Seconds to wait for a running capture, which works as the student."""


def prepare_lock(host: Host, usernames: Sequence[str], now: datetime) -> Plan:
    """Only what is missing. InputError for a name that is not in the course."""
    _refuse_strangers(host, usernames)
    shut = lockouts.read(host.paths.lockouts)
    new = tuple(name for name in usernames if name not in shut)
    running = {report.username for report in shutdown.reports(host) if report.state is not ServerState.STOPPED}
    stopping = tuple(name for name in usernames if name in running)
    others = {name: _other_courses(host, name, closed=False) for name in usernames}
    guests = {name for name in usernames if (claim := host.ledger.claim(name)) is None or claim.is_guest}
    closing = tuple(
        name
        for name in usernames
        if name not in guests
        and not others[name]
        and (name in new or accounts.lacks_lock(host, name) or _runs(host, name))
    )
    return Plan(
        (
            Phase("lock", (LockOut(new, now.isoformat(timespec="seconds")),) if new else ()),
            Phase("front page", () if not new and _front_page_knows(host) else (TellFrontPage(),)),
            Phase("stop servers", shutdown.steps(stopping) if stopping else ()),
            Phase("lock accounts", tuple(map(KeepLocked, closing))),
            Phase("end processes", tuple(map(EndProcesses, closing))),
        ),
        (
            *(
                f"{name} is also in {courses}: su, ssh and that class stay open"
                for name, courses in others.items()
                if courses
            ),
            *(f"{name} is a guest: su and ssh stay as they are" for name in usernames if name in guests),
        ),
    )


def prepare_unlock(host: Host, usernames: Sequence[str]) -> Plan:
    """Only what is missing; the server starts again if the class runs. InputError as prepare_lock."""
    _refuse_strangers(host, usernames)
    shut = lockouts.read(host.paths.lockouts)
    opening = tuple(name for name in usernames if name in shut)
    states = {report.username: report.state for report in shutdown.reports(host)}
    runs = front_page.is_up(host) and bool(opening)
    on_demand = host.settings.notebook.start == "on-demand" or ServerState.ASLEEP in states.values()
    facts = survey.survey(host, usernames)
    lost = [name for name in opening if name in facts.locked]
    serving = tuple(name for name in opening if name in facts.with_passwords and name not in lost) if runs else ()
    now = ClassNow(front_page_is_current=True)
    return Plan(
        (
            Phase("unlock", tuple(map(Unlock, opening))),
            Phase("front page", (TellFrontPage(),) if runs else ()),
            *(starting.phases(serving, now, on_demand=on_demand) if serving else ()),
        ),
        (
            *(f"{name} is not locked" for name in usernames if name not in shut),
            *(f"{name}: a removal began and did not finish; the account stays locked" for name in lost),
            *(
                f"{name} is locked in {courses} too"
                for name in opening
                if (courses := _other_courses(host, name, closed=True))
            ),
        ),
    )


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether each student is locked out, and the state of the server, for the report."""
    shut = lockouts.read(host.paths.lockouts)
    states = {report.username: report.state.value for report in shutdown.reports(host)}
    return {name: {"locked": name in shut, "server": states.get(name, ServerState.STOPPED.value)} for name in usernames}


@dataclass(frozen=True)
class LockOut:
    """First of all: from here on no command starts their servers, whatever happens to this one."""

    usernames: tuple[str, ...]
    since: str

    def describe(self) -> str:
        return f"remember that {', '.join(self.usernames)} {'is' if len(self.usernames) == 1 else 'are'} locked out"

    def apply(self, host: Host) -> None:
        lockouts.update(host.paths.lockouts, dict.fromkeys(self.usernames, self.since))


@dataclass(frozen=True)
class EndProcesses(ForOne):
    """Sessions by ssh, terminals, programs in the background. Crontab and at jobs stay, and are not run."""

    def describe(self) -> str:
        return f"end every process of {self.username}"

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        with locked(captures_lock(host), f"course {host.settings.course}", patience=_LONGEST_CAPTURE):
            host.accounts.kill_everything(account)


@dataclass(frozen=True)
class Unlock(ForOne):
    """The account first: a crash in between leaves the student locked, and `unlock` does the rest."""

    def describe(self) -> str:
        return f"unlock {self.username}"

    def apply(self, host: Host) -> None:
        accounts.reopen(host, self.username)
        lockouts.update(host.paths.lockouts, {}, gone=[self.username])


def _refuse_strangers(host: Host, usernames: Sequence[str]) -> None:
    members = host.ledger.members(host.settings.course)
    problems = [
        f'there is no student "{printable(name)}" in course {host.settings.course}'
        for name in usernames
        if name not in members
    ]
    if problems:
        raise InputError(problems, "Nothing was changed.")


def _other_courses(host: Host, username: str, *, closed: bool) -> str:
    """Other courses of the student's that have, or have not, locked the student out."""
    found = accounts.courses(host, username, locked_out=closed)
    return ", ".join(course for course in found if course != host.settings.course)


def _front_page_knows(host: Host) -> bool:
    return not front_page.is_up(host) or front_page.is_current(host)


def _runs(host: Host, username: str) -> bool:
    claim = host.ledger.claim(username)
    return claim is not None and bool(sweep.processes_of(claim.account.uid))
