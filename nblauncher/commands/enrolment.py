"""The steps that enrol a student: account, membership with port and group, passwords."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from nblauncher.accounts import allocation
from nblauncher.auth import credentials, hashes, passwords
from nblauncher.auth.credentials import Credentials
from nblauncher.commands import system_passwords
from nblauncher.errors import HostError
from nblauncher.ledger import CourseRecord, imported
from nblauncher.model import ROOT, Account, AccountState, Secret, Student
from nblauncher.planning import lockouts, survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import ForOne, SomeFailed, log_descriptors
from nblauncher.system import workers


@dataclass(frozen=True)
class RecordCourse:
    """The course's record and its group."""

    record: CourseRecord
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"set up course {self.record.course} for {self.record.owner}"

    def apply(self, host: Host) -> None:
        host.ledger.record_course(self.record)
        host.accounts.ensure_group(host.group, locks=host.locks)


@dataclass(frozen=True)
class ClaimAccounts:
    """Record uids and nonces before the first useradd: a crash must not orphan an account."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"reserve uids for {len(self.usernames)} new accounts"

    def apply(self, host: Host) -> None:
        wanted = host.settings.accounts
        free = allocation.uids(
            len(self.usernames),
            within=wanted.uid_range,
            spent=host.ledger.spent_uids(),
            is_free=host.accounts.uid_is_free,
        )
        host.ledger.claim_accounts(
            (
                Account(name, uid, uid, wanted.home / name, wanted.shell, allocation.new_nonce())
                for name, uid in zip(self.usernames, free, strict=True)
            ),
            is_guest=False,
        )


@dataclass(frozen=True)
class RecordGuests:
    """Accounts that nblauncher did not make: remember name and uid, and never change them."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"record {len(self.usernames)} existing accounts as guests"

    def apply(self, host: Host) -> None:
        found = [account for name in self.usernames if (account := host.accounts.lookup(name)) is not None]
        # A guest's GECOS is not ours, whatever it says: without a nonce the account never becomes ours.
        host.ledger.claim_accounts((replace(account, nonce="") for account in found), is_guest=True)


@dataclass(frozen=True)
class CreateAccount(ForOne):
    def describe(self) -> str:
        return f"create account {self.username}"

    def apply(self, host: Host) -> None:
        host.ledger.made_account(host.accounts.create(survey.claimed_account(host, self.username), locks=host.locks))


@dataclass(frozen=True)
class RepairAccount(ForOne):
    """A crash left the account half made: complete it, or discard it and make it again."""

    def describe(self) -> str:
        return f"complete half-made account {self.username}"

    def apply(self, host: Host) -> None:
        host.ledger.made_account(host.accounts.repair(survey.claimed_account(host, self.username), locks=host.locks))


@dataclass(frozen=True)
class UnlockAccount(ForOne):
    """A removal did not finish and the student is in the roster again."""

    def describe(self) -> str:
        return f"unlock account {self.username}: its removal did not finish"

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        if not lockouts.is_locked_everywhere(host, self.username):
            host.accounts.unlock(account, locks=host.locks)
        host.ledger.made_account(account)


@dataclass(frozen=True)
class KeepLocked(ForOne):
    """Of a student whom every course of theirs has locked out."""

    def describe(self) -> str:
        return f"lock account {self.username}"

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        if not host.accounts.is_locked(account):
            host.accounts.lock(account, locks=host.locks)


@dataclass(frozen=True)
class JoinCourse:
    """Membership, port and the course's group."""

    usernames: tuple[str, ...]
    ports: Mapping[str, int]
    """Of newcomers only; the other students keep their ports."""
    grouped: tuple[str, ...]

    def describe(self) -> str:
        return f"add {len(self.usernames)} students to the course"

    def apply(self, host: Host) -> None:
        host.ledger.join(
            host.settings.course, {name: port for name, port in self.ports.items() if name in self.usernames}
        )
        for name in self.ports:
            if lockouts.courses(host, name, locked_out=True) and not lockouts.is_locked_everywhere(host, name):
                lockouts.reopen(host, name)  # another course locked the student out; this one did not
        accounts = [survey.student_account(host, name) for name in self.usernames]
        host.course_ledger.begin_students({account.username: account.uid for account in accounts})
        grouped = [account for account in accounts if account.username in self.grouped]
        host.accounts.add_to_group(grouped, host.group, locks=host.locks)


@dataclass(frozen=True)
class SetPasswords:
    """New passwords: first the teacher's file, then our hashes, then the system (docs/decisions/credentials-first.md).

    All of it happens in a forked child, so that no password is in the memory of a process that forks for a student.
    """

    usernames: tuple[str, ...]
    students: tuple[Student, ...]
    with_system_password: frozenset[str]
    without_system_password: frozenset[str] = frozenset()
    """Students whose accounts no password opens; those in neither keep what the account has."""
    imported: frozenset[str] = frozenset()
    """Students whose notebook password on another host is valid here too: only its hash is known."""

    def describe(self) -> str:
        kept = f", {len(self.imported)} of whom keep their notebook password" if self.imported else ""
        return f"generate passwords for {len(self.usernames)} students{kept}"

    def apply(self, host: Host) -> None:
        answer = workers.run_as(ROOT, self._in_child, host, keep=(*host.locks, *log_descriptors()), timeout=1800)
        failures = {str(name): str(why) for name, why in answer.items()}
        set_now = [name for name in self.usernames if name not in failures]
        host.ledger.passwords_set(name for name in set_now if name in self.with_system_password)
        host.course_ledger.set_passwords_done(set_now)
        imported.drop(host.paths.imported, set_now)
        if failures:
            raise SomeFailed(failures, "Run `nblauncher setup` again.")

    def _in_child(self, host: Host) -> dict[str, str]:
        students = [student for student in self.students if student.username in self.usernames]
        brought = imported.read(host.paths.imported)
        kept = {name: one.hash for name, one in brought.students.items() if name in self.imported} if brought else {}
        rows = [self._row(student, host, kept) for student in students]
        new = [row for row in rows if row.username not in kept]
        if new:
            credentials.write(host.owner, host.settings.credentials, new)
        if kept:
            credentials.write_system_passwords(
                host.owner, host.settings.credentials, [row for row in rows if row.username in kept]
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashed = list(pool.map(passwords.jupyter_hash, (row.notebook_password for row in new)))
        made = {row.username: text for row, text in zip(new, hashed, strict=True)}
        hashes.update(host.paths.hashes, {**made, **{name: kept[name] for name in self.usernames if name in kept}})
        system = {row.username: row.system_password for row in rows if row.username in self.with_system_password}
        foreign = {name: "the account is not the one we made" for name in system if not _is_ours(host, name)}
        ours = {name: password for name, password in system.items() if name not in foreign}
        disabled = [name for name in self.without_system_password.intersection(self.usernames) if _is_ours(host, name)]
        failures = {
            **foreign,
            **host.accounts.set_passwords(ours, locks=host.locks),
            **host.accounts.disable_passwords(disabled, locks=host.locks),
        }
        for name in ours:
            lockouts.keep_locked(host, name)  # the account was made again while the student is locked out
        return failures

    def _row(self, student: Student, host: Host, kept: Collection[str]) -> Credentials:
        return Credentials(
            username=student.username,
            name=student.name,
            email=student.email,
            url=host.frontend.front_page_for(student.username),
            notebook_password=credentials.AS_BEFORE if student.username in kept else passwords.generate(),
            system_password=self._system_password(student.username),
        )

    def _system_password(self, username: str) -> Secret:
        if username in self.with_system_password:
            return passwords.generate()
        return system_passwords.NONE if username in self.without_system_password else credentials.AS_BEFORE


@dataclass(frozen=True)
class CorrectCredentials:
    """The teacher's file follows the roster: names and addresses of students who have their passwords."""

    students: tuple[Student, ...]
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        count = len(self.students)
        return f"correct the name or address of {count} student{'' if count == 1 else 's'} in the credentials file"

    def apply(self, host: Host) -> None:
        credentials.correct(host.owner, host.settings.credentials, _rows(host, self.students))


def outdated(host: Host, students: Iterable[Student]) -> tuple[Student, ...]:
    """Those whose rows in the teacher's file are not as in the roster; none if the file is not ours any more."""
    known = tuple(students)
    try:
        names = credentials.outdated(host.owner, host.settings.credentials, _rows(host, known)) if known else ()
    except HostError:
        return ()
    return tuple(student for student in known if student.username in names)


def _rows(host: Host, students: Iterable[Student]) -> list[Credentials]:
    return [
        Credentials(
            student.username,
            student.name,
            student.email,
            host.frontend.front_page_for(student.username),
            credentials.AS_BEFORE,
            credentials.AS_BEFORE,
        )
        for student in students
    ]


def _is_ours(host: Host, username: str) -> bool:
    claim = host.ledger.claim(username)
    return survey.account_state(claim, host.accounts.lookup(username)) is AccountState.COMPLETE
