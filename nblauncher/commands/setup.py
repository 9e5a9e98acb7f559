"""setup: an account, passwords, profile and material for every row of the roster that lacks them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nblauncher import allot, credentials, hashes, passwords, roster, survey, workers
from nblauncher.accounts import SYSTEM_ACCOUNTS, home_folders
from nblauncher.commands import folders, packages, send
from nblauncher.commands.session import Session
from nblauncher.credentials import Credentials
from nblauncher.errors import InputError
from nblauncher.host import Host
from nblauncher.ledger import CourseRecord
from nblauncher.model import Account, AccountState, Roster, Secret, Student
from nblauncher.plan import Phase, Plan, SomeFailed, Step, log_descriptors
from nblauncher.settings import Settings
from nblauncher.survey import Facts

_ROOT = Account("root", 0, 0, Path("/root"))
_OURS = (AccountState.COMPLETE, AccountState.CHANGED)
_NEW = (AccountState.ABSENT, AccountState.VANISHED)


def plan(
    wanted: Roster,
    facts: Facts,
    settings: Settings,
    owner: Account,
    *,
    whole: Roster | None = None,
    sending: tuple[Phase, ...] = (),
) -> Plan:
    """Only what is missing: running setup twice changes nothing the second time. `whole` is the roster where only
    some of it are wanted; `sending` is what `send` would do.

    Raises InputError naming every row whose name we must not touch; nothing was changed then.
    """
    if problems := objections(wanted, facts, settings):
        raise InputError(problems, "Nothing was changed.")
    fresh = [name for name in wanted.usernames if facts.state(name) in _NEW] if settings.accounts.create else []
    half_made = [name for name in wanted.usernames if _is_half_made(name, facts)]
    locked = [name for name in wanted.usernames if name in facts.locked and name in facts.found.keys() - set(half_made)]
    guests = [name for name in wanted.usernames if not settings.accounts.create and name not in facts.claims]
    outside = [name for name in wanted.usernames if name not in facts.members]
    # Whoever is made again has been taken out of the group by userdel.
    grouped = facts.in_group - set(half_made)
    ungrouped = [name for name in wanted.usernames if name not in grouped and settings.accounts.create]
    joining = tuple(dict.fromkeys([*outside, *ungrouped, *fresh, *half_made]))
    new_ports = allot.ports(outside, front_port=settings.web.port, spent=facts.spent_ports, taken=facts.taken_ports)
    record = CourseRecord(
        settings.course, owner.username, owner.uid, str(settings.file or ""), settings.web.port, group_made=True
    )
    return Plan(
        (
            Phase("the course", () if facts.record == record else (RecordCourse(record),)),
            Phase("claim accounts", (ClaimAccounts(tuple(fresh)),) if fresh else ()),
            Phase("record guests", (RecordGuests(tuple(guests)),) if guests else ()),
            Phase("create accounts", (*map(CreateAccount, fresh), *map(RepairAccount, half_made))),
            Phase("unlock accounts", tuple(map(UnlockAccount, locked))),
            Phase("join the course", (JoinCourse(joining, new_ports, tuple(ungrouped)),) if joining else ()),
            *_passwords_and_material(_passwords(wanted, facts, {*fresh, *half_made}, settings), sending),
        ),
        _notes(wanted, facts, whole or wanted),
    )


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
    """Uids and nonces, written down before the first useradd: a crash must not orphan an account."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"reserve uids for {len(self.usernames)} new accounts"

    def apply(self, host: Host) -> None:
        wanted = host.settings.accounts
        free = allot.uids(
            len(self.usernames),
            within=wanted.uid_range,
            spent=host.ledger.spent_uids(),
            is_free=host.accounts.uid_is_free,
        )
        host.ledger.claim_accounts(
            (
                Account(name, uid, uid, wanted.home / name, wanted.shell, allot.new_nonce())
                for name, uid in zip(self.usernames, free, strict=True)
            ),
            is_guest=False,
        )


@dataclass(frozen=True)
class RecordGuests:
    """Accounts that come from elsewhere: we remember name and uid, and never change them."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"record {len(self.usernames)} existing accounts as guests"

    def apply(self, host: Host) -> None:
        found = [account for name in self.usernames if (account := host.accounts.lookup(name)) is not None]
        # A guest's GECOS is not ours, whatever it says: without a nonce the account never becomes ours.
        host.ledger.claim_accounts((replace(account, nonce="") for account in found), is_guest=True)


@dataclass(frozen=True)
class CreateAccount:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"create account {self.username}"

    def apply(self, host: Host) -> None:
        host.ledger.made_account(host.accounts.create(survey.claimed_account(host, self.username), locks=host.locks))


@dataclass(frozen=True)
class RepairAccount:
    """A crash left the account half made: what cannot be completed is discarded and made again."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"complete half-made account {self.username}"

    def apply(self, host: Host) -> None:
        host.ledger.made_account(host.accounts.repair(survey.claimed_account(host, self.username), locks=host.locks))


@dataclass(frozen=True)
class UnlockAccount:
    """A removal did not finish and the student is in the roster again."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"unlock account {self.username}, whose removal did not finish"

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        host.accounts.unlock(account, locks=host.locks)
        host.ledger.made_account(account)


@dataclass(frozen=True)
class JoinCourse:
    """Membership, port and the course's group."""

    usernames: tuple[str, ...]
    ports: Mapping[str, int]
    """Of newcomers only; everybody else keeps the port they have."""
    grouped: tuple[str, ...]

    def describe(self) -> str:
        return f"add {len(self.usernames)} students to the course"

    def apply(self, host: Host) -> None:
        host.ledger.join(
            host.settings.course, {name: port for name, port in self.ports.items() if name in self.usernames}
        )
        accounts = [survey.student_account(host, name) for name in self.usernames]
        host.course_ledger.begin_students({account.username: account.uid for account in accounts})
        grouped = [account for account in accounts if account.username in self.grouped]
        host.accounts.add_to_group(grouped, host.group, locks=host.locks)


@dataclass(frozen=True)
class SetPasswords:
    """New passwords: first the teacher's file, then our hashes, then the system (DESIGN section 5).

    All of it happens in a forked child, so that no password is in the memory of a process that forks for a student.
    """

    usernames: tuple[str, ...]
    students: tuple[Student, ...]
    with_system_password: frozenset[str]

    def describe(self) -> str:
        return f"generate passwords for {len(self.usernames)} students"

    def apply(self, host: Host) -> None:
        answer = workers.run_as(_ROOT, self._in_child, host, keep=(*host.locks, *log_descriptors()), timeout=1800)
        failures = {str(name): str(why) for name, why in answer.items()}
        set_now = [name for name in self.usernames if name not in failures]
        host.ledger.passwords_set(name for name in set_now if name in self.with_system_password)
        host.course_ledger.set_passwords_done(set_now)
        if failures:
            raise SomeFailed(failures, "Run `nblauncher setup` again.")

    def _in_child(self, host: Host) -> dict[str, str]:
        students = [student for student in self.students if student.username in self.usernames]
        rows = [self._row(student, host) for student in students]
        credentials.write(host.owner, host.settings.credentials, rows)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashed = list(pool.map(passwords.jupyter_hash, (row.notebook_password for row in rows)))
        hashes.update(host.paths.hashes, {row.username: text for row, text in zip(rows, hashed, strict=True)})
        system = {row.username: row.system_password for row in rows if row.username in self.with_system_password}
        foreign = {name: "the account is not the one we made" for name in system if not _is_ours(host, name)}
        ours = {name: password for name, password in system.items() if name not in foreign}
        return {**foreign, **host.accounts.set_passwords(ours, locks=host.locks)} if system else {}

    def _row(self, student: Student, host: Host) -> Credentials:
        return Credentials(
            username=student.username,
            name=student.name,
            email=student.email,
            url=host.frontend.front_page_for(student.username),
            notebook_password=passwords.generate(),
            system_password=passwords.generate()
            if student.username in self.with_system_password
            else Secret("(as before)"),
        )


@dataclass(frozen=True)
class AcceptInputs:
    """Keep a copy of the config and roster for unattended starts."""

    files: tuple[tuple[str, bytes], ...]
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "remember the accepted config and roster"

    def is_done(self, host: Host) -> bool:
        try:
            return all((host.paths.accepted / name).read_bytes() == content for name, content in self.files)
        except (FileNotFoundError, PermissionError):
            return False

    def apply(self, host: Host) -> None:
        host.paths.accepted.mkdir(mode=0o700, exist_ok=True)
        for name, content in self.files:
            hashes.write_private(host.paths.accepted / name, content)


def objections(wanted: Roster, facts: Facts, settings: Settings) -> list[str]:
    """A line for each row whose name this host cannot take."""
    return [problem for student in wanted if (problem := _objection(student, facts, settings))]


def _objection(student: Student, facts: Facts, settings: Settings) -> str:
    name, state = student.username, facts.state(student.username)
    where = f"students.csv line {student.line}: " if student.line else ""
    if name in SYSTEM_ACCOUNTS:
        return f'{where}"{name}" is the name of a system account of nblauncher\'s own'
    if not settings.accounts.create:
        if state is AccountState.ABSENT or name not in facts.found:
            return f'{where}there is no account "{name}", and accounts.create is false'
        if name in facts.objections:
            return f'{where}"{name}" cannot be a student: {facts.objections[name]}'
        if name in facts.claims and state is AccountState.FOREIGN:
            return f'{where}the account "{name}" has another uid than the one that was recorded for this student'
        return ""
    if state is AccountState.FOREIGN:
        why = facts.objections.get(name, "nblauncher did not make it")
        return f'{where}"{name}" is an existing account that is not ours ({why})'
    if state is AccountState.GUEST and name in facts.claims:
        return f'{where}"{name}" was recorded as a guest (accounts.create: false); it stays one'
    if name in facts.groups and not _is_group_of_half_made(name, facts):
        return (
            f'{where}"{name}" is the name of a group of this host (gid {facts.groups[name]}), and each account needs a '
            "group of its own name"
        )
    return ""


def _is_group_of_half_made(name: str, facts: Facts) -> bool:
    """Left by a useradd that was killed: it goes with the rest of the half account."""
    return facts.state(name) is AccountState.HALF_MADE and facts.groups[name] == facts.claims[name].account.uid


def _is_half_made(name: str, facts: Facts) -> bool:
    """By a crash in `setup`; or by one in `remove`, which was about to delete the account and had deleted the home."""
    if facts.state(name) is AccountState.COMPLETE and name in facts.without_home:
        return facts.claims[name].stage == "emptying"
    return facts.state(name) is AccountState.HALF_MADE


def _passwords(wanted: Roster, facts: Facts, remade: set[str], settings: Settings) -> tuple[Step, ...]:
    lacking = [
        student for student in wanted if student.username in remade or student.username not in facts.with_passwords
    ]
    if not lacking:
        return ()
    # The account of another course already has a system password, which stays; guests' are never ours to set.
    with_system = frozenset(
        student.username
        for student in lacking
        if settings.accounts.create and (student.username in remade or not _has_password_elsewhere(student, facts))
    )
    return (SetPasswords(tuple(student.username for student in lacking), tuple(lacking), with_system),)


def _roster_changes(host: Host, session: Session) -> tuple[str, ...]:
    """What is different from the roster that was accepted last; empty the first time."""
    try:
        before = (host.paths.accepted / "students.csv").read_bytes()
    except (FileNotFoundError, PermissionError):
        return ()
    difference = roster.diff(roster.parse(before, "students.csv", judges_extra_time=False), session.roster or Roster())
    return tuple(f"roster: {line}" for line in difference.describe())


def _passwords_and_material(passwords: tuple[Step, ...], sending: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """chpasswd keeps one core busy for seconds, so homes are written meanwhile."""
    if not sending or not passwords:
        return (Phase("passwords", passwords), *sending)
    *before, last = sending
    together = replace(
        last, title="passwords and material", steps=(*passwords, *last.steps), parallel=last.parallel + len(passwords)
    )
    return (*before, together)


def _with_locks(phases: tuple[Phase, ...], locks: tuple[int, ...]) -> tuple[Phase, ...]:
    """chpasswd inherits the locks also where it is started by a forked step."""

    def kept(phase: Phase) -> Callable[[], tuple[int, ...]]:
        return lambda: (*phase.descriptors(), *locks)

    return tuple(replace(phase, descriptors=kept(phase)) for phase in phases)


def _is_ours(host: Host, username: str) -> bool:
    claim = host.ledger.claim(username)
    return survey.account_state(claim, host.accounts.lookup(username)) is AccountState.COMPLETE


def _has_password_elsewhere(student: Student, facts: Facts) -> bool:
    claim = facts.claims.get(student.username)
    return claim is not None and claim.has_password and student.username in facts.elsewhere


def _notes(wanted: Roster, facts: Facts, whole: Roster) -> tuple[str, ...]:
    here = frozenset(whole.usernames)
    notes = [
        f"{name} is no longer in the roster; account, home and port stay until `nblauncher remove --only {name}`"
        for name in facts.members
        if name not in here
    ]
    notes += [
        f"{name}: the account was deleted by hand; it is made anew with a new uid and new passwords"
        for name in wanted.usernames
        if facts.state(name) is AccountState.VANISHED and not facts.claims[name].is_guest
    ]
    notes += [
        f"{name}: a removal had deleted the home already; the account is made anew with new passwords"
        for name in wanted.usernames
        if name in facts.locked and _is_half_made(name, facts)
    ]
    notes += [
        f"{name}: the account was changed by hand; it is served, but `remove` deletes it only with --claim {name}"
        for name in wanted.usernames
        if facts.state(name) is AccountState.CHANGED
    ]
    return tuple(notes)


def prepare(host: Host, wanted: Roster, session: Session) -> Plan:
    """Survey and plan; the inputs are remembered last, when everything before them was done."""
    if host.settings.accounts.create:
        home_folders.refuse_unsafe_root(host.settings.accounts.home)
    facts = survey.survey(host, wanted.usernames)
    outgoing = send.read(host)
    handed_out = {parcel.kind: host.course_ledger.all_handed_out(parcel.kind) for parcel in outgoing.parcels}
    newcomers = [name for name in wanted.usernames if name not in facts.with_material]
    sending = send.plan(newcomers, facts, outgoing, handed_out)
    planned = plan(
        wanted, facts, host.settings, host.owner, whole=session.roster, sending=_with_locks(sending, host.locks)
    )
    index = next(parcel.index for parcel in outgoing.parcels if parcel.kind == send.MATERIAL)
    remarks = folders.require(host, session.roster or wanted, folders.known(host, index))
    accepted = AcceptInputs(session.contents)
    building = packages.phases(host, dict(session.contents))
    remember = () if accepted.is_done(host) else (Phase("inputs", (accepted,)),)
    # First: where it fails nothing was changed, and nobody waits for passwords that were made and not told.
    others = [name for name in wanted.usernames if name in facts.with_material]
    unsent = send.unsent(others, outgoing, handed_out)
    invalid = send.broken(host, newcomers, facts, outgoing, handed_out)
    notes = (*_roster_changes(host, session), *planned.notes, *remarks, *unsent, *invalid)
    return Plan((*building, *planned.phases, *send.first_time(newcomers, facts), *remember), notes)


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """uid, home, port and url of each student, for the report."""
    claims = host.ledger.claims()
    return {
        name: {
            "uid": claims[name].account.uid,
            "home": str(claims[name].account.home),
            "port": member.port,
            "url": host.frontend.route(name, member.port).url,
        }
        for name, member in host.ledger.members(host.settings.course).items()
        if name in usernames and name in claims
    }
