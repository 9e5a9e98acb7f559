"""setup: an account, passwords, profile and material for every row of the roster that lacks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nblauncher.accounts import SYSTEM_ACCOUNTS, allocation, home_folders
from nblauncher.commands import packages, send, system_passwords
from nblauncher.commands.accepted import AcceptInputs, config_changes, roster_changes
from nblauncher.commands.deadlines import folders
from nblauncher.commands.enrolment import (
    ClaimAccounts,
    CorrectCredentials,
    CreateAccount,
    JoinCourse,
    KeepLocked,
    RecordCourse,
    RecordGuests,
    RepairAccount,
    SetPasswords,
    UnlockAccount,
    outdated,
)
from nblauncher.commands.session import Session
from nblauncher.config.settings import Settings
from nblauncher.errors import InputError
from nblauncher.ledger import CourseRecord
from nblauncher.model import Account, AccountState, Roster, Student
from nblauncher.planning import lockouts, survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan, Step
from nblauncher.planning.survey import Facts
from nblauncher.preflight import cluster

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
    """Only what is missing: running setup twice changes nothing the second time. `whole` is the full roster if only
    some of its students are wanted; `sending` are the phases of `send`.

    Raises InputError naming every row with a name we must not touch; nothing was changed then.
    """
    if problems := objections(wanted, facts, settings):
        raise InputError(problems, "Nothing was changed.")
    fresh = [name for name in wanted.usernames if facts.state(name) in _NEW] if settings.accounts.create else []
    half_made = [name for name in wanted.usernames if _is_half_made(name, facts)]
    locked = [name for name in wanted.usernames if name in facts.locked and name in facts.found.keys() - set(half_made)]
    guests = [name for name in wanted.usernames if not settings.accounts.create and name not in facts.claims]
    outside = [name for name in wanted.usernames if name not in facts.members]
    # userdel removed recreated accounts from the group.
    grouped = facts.in_group - set(half_made)
    ungrouped = [name for name in wanted.usernames if name not in grouped and settings.accounts.create]
    joining = tuple(dict.fromkeys([*outside, *ungrouped, *fresh, *half_made]))
    new_ports = allocation.ports(
        outside,
        front_port=settings.web.port,
        spent=facts.spent_ports,
        taken=facts.taken_ports,
        wanted={name: settings.web.port + offset for name, offset in facts.imported.items() if offset},
    )
    remade = {*fresh, *half_made}
    changed = system_passwords.changes(
        Roster(tuple(one for one in wanted if one.username not in remade)), facts, settings
    )
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
            *changed.phases(),
            *_passwords_and_material(_passwords(wanted, facts, remade, settings), sending),
        ),
        (*_notes(wanted, facts, whole or wanted), *changed.notes()),
    )


def objections(wanted: Roster, facts: Facts, settings: Settings) -> list[str]:
    """A line for each row with a name that this host cannot accept."""
    return [problem for student in wanted if (problem := _objection(student, facts, settings))]


def _objection(student: Student, facts: Facts, settings: Settings) -> str:
    name, state = student.username, facts.state(student.username)
    where = f"students.csv line {student.line}: " if student.line else ""
    if name in SYSTEM_ACCOUNTS:
        return f'{where}"{name}" is the name of a system account of nblauncher'
    if not settings.accounts.create:
        if state is AccountState.ABSENT or name not in facts.found:
            return f'{where}there is no account "{name}", and accounts.create is false'
        if name in facts.objections:
            return f'{where}"{name}" cannot be a student: {facts.objections[name]}'
        if name in facts.claims and state is AccountState.FOREIGN:
            return f'{where}the account "{name}" has a different uid than the one recorded for this student'
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
    """Left by a killed useradd; it is deleted together with the half-made account."""
    return facts.state(name) is AccountState.HALF_MADE and facts.groups[name] == facts.claims[name].account.uid


def _is_half_made(name: str, facts: Facts) -> bool:
    """By a crash in `setup`, or in `remove` after the home and before the account was deleted."""
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
    own = frozenset(
        student.username
        for student in lacking
        if settings.accounts.create and (student.username in remade or not _has_password_elsewhere(student, facts))
    )
    with_system, without = (
        (own, frozenset[str]()) if settings.accounts.has_system_passwords else (frozenset[str](), own)
    )
    names = tuple(student.username for student in lacking)
    return (
        SetPasswords(names, tuple(lacking), with_system, without, facts.with_imported_passwords.intersection(names)),
    )


def _passwords_and_material(passwords: tuple[Step, ...], sending: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """chpasswd keeps one core busy for seconds, so write the homes in parallel."""
    if not sending or not passwords:
        return (Phase("passwords", passwords), *sending)
    *before, last = sending
    together = replace(
        last, title="passwords and material", steps=(*passwords, *last.steps), parallel=last.parallel + len(passwords)
    )
    return (*before, together)


def _with_locks(phases: tuple[Phase, ...], locks: tuple[int, ...]) -> tuple[Phase, ...]:
    """Let forked steps keep the locks too, so that chpasswd inherits them."""

    def kept(phase: Phase) -> Callable[[], tuple[int, ...]]:
        return lambda: (*phase.descriptors(), *locks)

    return tuple(replace(phase, descriptors=kept(phase)) for phase in phases)


def _has_password_elsewhere(student: Student, facts: Facts) -> bool:
    claim = facts.claims.get(student.username)
    return claim is not None and claim.has_password and student.username in facts.elsewhere


def _notes(wanted: Roster, facts: Facts, whole: Roster) -> tuple[str, ...]:
    here = frozenset(whole.usernames)
    notes = _about_absent([name for name in facts.members if name not in here])
    notes += [
        f"{name}: the account was deleted by hand; it is recreated with a new uid and new passwords"
        for name in wanted.usernames
        if facts.state(name) is AccountState.VANISHED and not facts.claims[name].is_guest
    ]
    notes += [
        f"{name}: a removal had deleted the home already; the account is recreated with new passwords"
        for name in wanted.usernames
        if name in facts.locked and _is_half_made(name, facts)
    ]
    notes += [
        f"{name}: the account was changed by hand; it is served, but `remove` deletes it only with --claim {name}"
        for name in wanted.usernames
        if facts.state(name) is AccountState.CHANGED
    ]
    return tuple(notes)


def _about_absent(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    if len(names) == 1:
        who, what = f"{names[0]} is", "account, home and port stay"
    else:
        who, what = f"{len(names)} students are", "accounts, homes and ports stay"
    command = f"`nblauncher remove --only {','.join(names)}`"
    return [f"{who} no longer in the roster; {what} until {command}"]


def prepare(host: Host, wanted: Roster, session: Session) -> Plan:
    """Survey and plan. The inputs are recorded last, when everything before is done."""
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
    # Packages come first: if they fail nothing was changed, and no passwords were made and left undelivered.
    others = [name for name in wanted.usernames if name in facts.with_material]
    unsent = send.unsent(others, outgoing, handed_out)
    invalid = send.broken(host, newcomers, facts, outgoing, handed_out)
    changed = (*config_changes(host, dict(session.contents)["notebooks.cfg"]), *roster_changes(host, session.roster))
    on_cluster = cluster.notes(host.settings, wanted.usernames)
    notes = (*changed, *planned.notes, *remarks, *unsent, *invalid, *on_cluster)
    open_again = [name for name in facts.locked_out if lockouts.lacks_lock(host, name)]
    locking = (Phase("lock accounts", tuple(map(KeepLocked, open_again))),) if open_again else ()
    changed_rows = outdated(host, [one for one in wanted if one.username in facts.with_passwords & facts.found.keys()])
    correcting = (Phase("credentials", (CorrectCredentials(changed_rows),)),) if changed_rows else ()
    phases = (*building, *planned.phases, *correcting, *send.first_time(newcomers, facts), *locking, *remember)
    return Plan(phases, notes)


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
