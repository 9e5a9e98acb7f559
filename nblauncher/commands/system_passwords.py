"""accounts.system_password: which accounts need another state than they have, and the steps that bring it about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from nblauncher.auth import credentials, passwords
from nblauncher.auth.credentials import AS_BEFORE, Credentials
from nblauncher.config.settings import Settings
from nblauncher.model import ROOT, AccountState, Roster, Secret, Student
from nblauncher.planning import lockouts, survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, SomeFailed, Step, log_descriptors
from nblauncher.planning.survey import Facts
from nblauncher.system import workers

NONE = Secret("(none)")
"""What the credentials file says of an account that no password opens."""


@dataclass(frozen=True)
class Changes:
    """Students who are set up, and whose account has another state than the config wants."""

    to_generate: tuple[Student, ...] = ()
    to_disable: tuple[Student, ...] = ()
    kept: tuple[str, ...] = ()
    """The password stays, because the student needs it in another course."""

    def phases(self) -> tuple[Phase, ...]:
        steps: list[Step] = []
        if self.to_generate:
            steps.append(GenerateSystemPasswords(_names(self.to_generate), self.to_generate))
        if self.to_disable:
            steps.append(DisableSystemPasswords(_names(self.to_disable), self.to_disable))
        return (Phase("system passwords", tuple(steps)),) if steps else ()

    def notes(self) -> list[str]:
        if not self.kept:
            return []
        return [f"in another course too, so the system password stays: {', '.join(self.kept)}"]


def changes(wanted: Roster, facts: Facts, settings: Settings) -> Changes:
    """Of our complete accounts only; an account of guests, or one changed by hand, is left alone."""
    if not settings.accounts.create:
        return Changes()
    ready = [
        student
        for student in wanted
        if facts.state(student.username) is AccountState.COMPLETE
        and student.username in facts.with_passwords
        and not facts.claims[student.username].is_guest
    ]
    having = {student.username for student in ready if facts.claims[student.username].has_password}
    if settings.accounts.has_system_passwords:
        return Changes(to_generate=tuple(student for student in ready if student.username not in having))
    shared = [name for name in having if name in facts.elsewhere]
    to_disable = tuple(student for student in ready if student.username in having.difference(shared))
    return Changes(to_disable=to_disable, kept=tuple(sorted(shared)))


@dataclass(frozen=True)
class GenerateSystemPasswords:
    """The teacher's file first, then the system (docs/decisions/credentials-first.md), in a forked child."""

    usernames: tuple[str, ...]
    students: tuple[Student, ...]

    def describe(self) -> str:
        return f"generate system passwords for {len(self.usernames)} students"

    def apply(self, host: Host) -> None:
        failures = _in_child(host, self._generate)
        host.ledger.passwords_set(name for name in self.usernames if name not in failures)
        _report(failures)

    def _generate(self, host: Host) -> dict[str, str]:
        foreign = _foreign(host, self.usernames)
        rows = [_row(one, host, passwords.generate()) for one in _among(self.students, self.usernames, foreign)]
        credentials.write_system_passwords(host.owner, host.settings.credentials, rows)
        new = {row.username: row.system_password for row in rows}
        failures = host.accounts.set_passwords(new, locks=host.locks)
        for name in new.keys() - failures:
            lockouts.keep_locked(host, name)  # chpasswd unlocks the password of a locked account
        return {**foreign, **failures}


@dataclass(frozen=True)
class DisableSystemPasswords:
    """The system first: the file must not say `(none)` of a password that still opens the account."""

    usernames: tuple[str, ...]
    students: tuple[Student, ...]

    def describe(self) -> str:
        return f"disable the system passwords of {len(self.usernames)} students"

    def apply(self, host: Host) -> None:
        failures = _in_child(host, self._disable)
        host.ledger.passwords_disabled(name for name in self.usernames if name not in failures)
        _report(failures)

    def _disable(self, host: Host) -> dict[str, str]:
        foreign = _foreign(host, self.usernames)
        ours = [name for name in self.usernames if name not in foreign]
        failures = {**foreign, **host.accounts.disable_passwords(ours, locks=host.locks)}
        rows = [_row(one, host, NONE) for one in _among(self.students, self.usernames, failures)]
        credentials.write_system_passwords(host.owner, host.settings.credentials, rows)
        return failures


def _in_child(host: Host, work: Callable[[Host], dict[str, str]]) -> dict[str, str]:
    """So that no password is in the memory of a process that forks for a student."""
    answer = workers.run_as(ROOT, work, host, keep=(*host.locks, *log_descriptors()), timeout=1800)
    return {str(name): str(why) for name, why in answer.items()}


def _report(failures: dict[str, str]) -> None:
    if failures:
        raise SomeFailed(failures, "Run `nblauncher setup` again.")


def _foreign(host: Host, usernames: Sequence[str]) -> dict[str, str]:
    """Accounts that are not the ones we made, or no longer, and why they are left alone."""
    states = {name: survey.account_state(host.ledger.claim(name), host.accounts.lookup(name)) for name in usernames}
    return {
        name: "the account is not the one we made"
        for name, state in states.items()
        if state is not AccountState.COMPLETE
    }


def _among(students: Sequence[Student], usernames: Sequence[str], failed: Collection[str]) -> list[Student]:
    """Without those who failed, here or in an earlier phase."""
    return [student for student in students if student.username in usernames and student.username not in failed]


def _row(student: Student, host: Host, password: Secret) -> Credentials:
    return Credentials(
        username=student.username,
        name=student.name,
        email=student.email,
        url=host.frontend.front_page_for(student.username),
        notebook_password=AS_BEFORE,
        system_password=password,
    )


def _names(students: Sequence[Student]) -> tuple[str, ...]:
    return tuple(student.username for student in students)
