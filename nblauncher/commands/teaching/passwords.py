"""passwd: new generated passwords for some students; sign-ins with the old ones end.

The order: the credentials file gets the new password beside the old one, then the new one becomes valid, then running
processes get it, then the file loses the old one. Wherever a crash stops that, the file has the one that works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nblauncher.accounts import state_of
from nblauncher.auth import credentials, hashes, passwords
from nblauncher.auth.credentials import AS_BEFORE, Credentials
from nblauncher.commands import accepted
from nblauncher.commands.running import shutdown
from nblauncher.commands.running.renewal import RenewServers, TellFrontPage
from nblauncher.errors import InputError
from nblauncher.model import ROOT, AccountState, Student
from nblauncher.planning import lockouts, survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan, SomeFailed, log_descriptors
from nblauncher.planning.survey import Facts
from nblauncher.printable import printable
from nblauncher.system import workers

_LONGEST = 600.0


def prepare(host: Host, usernames: Sequence[str], *, notebook: bool, system: bool) -> Plan:
    """Survey and plan. InputError for a name that has no such password."""
    if system and host.settings.accounts.create and not host.settings.accounts.has_system_passwords:
        raise InputError(
            "accounts.system_password is none: students have no system password", "Set it to generated, then `setup`."
        )
    facts = survey.survey(host, usernames)
    if problems := [problem for name in usernames if (problem := _objection(name, facts, system=system))]:
        raise InputError(problems, "Nothing was changed.")
    students = accepted.students_by_name(host)
    names = tuple(usernames)
    chosen = tuple(students.get(name, Student(name)) for name in names)
    before = {name: hashed for name, hashed in hashes.read(host.paths.hashes).items() if name in names}
    running = (Phase("front page", (TellFrontPage(),)), Phase("servers", (RenewServers(names, before),)))
    return Plan(
        (
            Phase("passwords", (ResetPasswords(names, chosen, notebook=notebook, system=system),)),
            *(running if notebook and shutdown.has_class(host) else ()),
            Phase("credentials", (EndChange(names),)),
        ),
        _notes(host, names, facts, notebook=notebook, system=system),
    )


def shown(host: Host, usernames: Sequence[str], *, notebook: bool, system: bool) -> list[tuple[str, ...]]:
    """The new passwords, from the teacher's file, in rows for the teacher's terminal."""
    found = credentials.passwords_in(host.owner, host.settings.credentials)
    columns = [column for column, is_new in zip(credentials.PASSWORDS, (notebook, system), strict=True) if is_new]
    return [(name, *(found.get(name, {}).get(column, "") for column in columns)) for name in usernames]


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: {"credentials": str(host.settings.credentials)} for name in usernames}


@dataclass(frozen=True)
class ResetPasswords:
    """All of it happens in a forked child, so that no password is in the memory of a process that forks for a student
    (docs/decisions/credentials-first.md).
    """

    usernames: tuple[str, ...]
    students: tuple[Student, ...]
    notebook: bool
    system: bool

    def describe(self) -> str:
        kinds = " and ".join([*(["notebook"] if self.notebook else []), *(["system"] if self.system else [])])
        return f"generate a new {kinds} password for {', '.join(self.usernames)}"

    def apply(self, host: Host) -> None:
        failures = workers.run_as(
            ROOT, self._in_child, host, keep=(*host.locks, *log_descriptors()), timeout=_LONGEST + len(self.usernames)
        )
        if failures:
            raise SomeFailed({str(name): str(why) for name, why in failures.items()}, "Run the command again.")
        if self.system:
            host.ledger.passwords_set(self.usernames)

    def _in_child(self, host: Host) -> dict[str, str]:
        rows = [self._row(student, host) for student in self.students if student.username in self.usernames]
        credentials.begin_change(host.owner, host.settings.credentials, rows)
        if self.notebook:
            hashes.update(
                host.paths.hashes, {row.username: passwords.jupyter_hash(row.notebook_password) for row in rows}
            )
        if not self.system:
            return {}
        failures = host.accounts.set_passwords({row.username: row.system_password for row in rows}, locks=host.locks)
        for name in self.usernames:
            if name not in failures:
                lockouts.keep_locked(host, name)  # chpasswd unlocks the password of a locked account
        return failures

    def _row(self, student: Student, host: Host) -> Credentials:
        return Credentials(
            username=student.username,
            name=student.name,
            email=student.email,
            url=host.frontend.front_page_for(student.username),
            notebook_password=passwords.generate() if self.notebook else AS_BEFORE,
            system_password=passwords.generate() if self.system else AS_BEFORE,
        )


@dataclass(frozen=True)
class EndChange:
    """From here on the old passwords are valid nowhere."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return "drop the old passwords from the credentials file"

    def apply(self, host: Host) -> None:
        credentials.end_change(host.owner, host.settings.credentials, self.usernames)


def _objection(name: str, facts: Facts, *, system: bool) -> str:
    if name not in facts.members:
        return f'there is no student "{printable(name)}" in course {facts.course}'
    if name not in facts.with_passwords:
        return f"{name} is not set up yet: `nblauncher setup`"
    if not system:
        return ""
    claim = facts.claims[name]
    if claim.is_guest:
        return f"{name} is a guest: nblauncher did not make the account, and does not set its system password"
    if state_of(claim.account, facts.found.get(name)) is not AccountState.COMPLETE:
        return f"{name}: the account is not as nblauncher made it, so its system password is left alone"
    return ""


def _notes(host: Host, usernames: Sequence[str], facts: Facts, *, notebook: bool, system: bool) -> tuple[str, ...]:
    notes = []
    elsewhere: Mapping[str, str] = {
        name: ", ".join(course for course in host.ledger.courses_of(name) if course != facts.course)
        for name in usernames
        if name in facts.elsewhere
    }
    for name, courses in elsewhere.items():
        if notebook:
            notes.append(f"{name} is also in {courses}: there the notebook password stays as it is")
        if system:
            notes.append(
                f"{name} is also in {courses}: the system password is the same; that credentials file is not changed"
            )
    locked = [name for name in usernames if name in facts.locked_out]
    if locked:
        notes.append(f"locked, and stays locked: {', '.join(locked)}")
    return tuple(notes)
