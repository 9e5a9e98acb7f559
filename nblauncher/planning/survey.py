"""The present state: the ledger's records compared with the host. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nblauncher.accounts import state_of
from nblauncher.errors import HostError
from nblauncher.ledger import Claim, CourseRecord, Membership, imported, lockouts
from nblauncher.model import Account, AccountState
from nblauncher.planning.host import Host
from nblauncher.system import tcp_table

_WITHOUT_GROUP = (AccountState.ABSENT, AccountState.VANISHED, AccountState.HALF_MADE)


@dataclass(frozen=True)
class Facts:
    """Everything that a plan may know about the host. Keys are usernames."""

    course: str
    record: CourseRecord | None = None
    """None before the course's first setup."""
    members: Mapping[str, Membership] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """Accounts of every course on this host."""
    found: Mapping[str, Account] = field(default_factory=dict)
    states: Mapping[str, AccountState] = field(default_factory=dict)
    without_home: frozenset[str] = frozenset()
    """Accounts without a home folder, after an unfinished removal or a deletion by hand."""
    objections: Mapping[str, str] = field(default_factory=dict)
    """Why an account that is not ours cannot even be a guest."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Groups of the host named like a student without a complete account: name → gid."""
    locked: frozenset[str] = frozenset()
    locked_out: frozenset[str] = frozenset()
    """Members whom the teacher locked out of this course."""
    in_group: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    """Members of this course and another one on this host."""
    with_records: frozenset[str] = frozenset()
    """Students with records of their present account in this course; records of an earlier account do not count."""
    with_material: frozenset[str] = frozenset()
    """Students with a complete delivery of the material to their present account."""
    with_passwords: frozenset[str] = frozenset()
    """Students with passwords of this course for their present account."""
    taken_ports: frozenset[int] = frozenset()
    """Ports of other courses, and ports on which another program listens. Looked for only when one of these students
    has no port yet.
    """
    spent_ports: frozenset[int] = frozenset()
    desired: Mapping[str, str] = field(default_factory=dict)
    imported: Mapping[str, int] = field(default_factory=dict)
    """Students that came from another host and were not set up here yet, with the distance of the port that they had
    there from the front page's.
    """
    with_imported_passwords: frozenset[str] = frozenset()
    """Those of them who keep their notebook password."""

    def state(self, username: str) -> AccountState:
        return self.states.get(username, AccountState.ABSENT)


def survey(host: Host, usernames: Iterable[str]) -> Facts:
    """Facts about these students and about all members of the course. Changes nothing."""
    course = host.settings.course
    claims = host.ledger.claims()
    members = host.ledger.members(course)
    uids = host.course_ledger.uids()
    wanted = dict.fromkeys([*usernames, *members])
    found = {name: account for name in wanted if (account := host.accounts.lookup(name)) is not None}
    states = {name: account_state(claims.get(name), found.get(name)) for name in wanted}
    same_uid = {name for name, account in found.items() if uids.get(name) == account.uid}
    brought = imported.read(host.paths.imported)
    newcomers = brought.students if brought else {}
    return Facts(
        course=course,
        record=host.ledger.course(course),
        members=members,
        claims=claims,
        found=found,
        states=states,
        without_home=frozenset(name for name, account in found.items() if not os.path.lexists(account.home)),
        objections=_objections(host, found, states),
        groups=_groups(host, wanted, states),
        locked=frozenset(name for name in wanted if name in claims and claims[name].stage in ("removing", "emptying")),
        locked_out=frozenset(lockouts.read(host.paths.lockouts)),
        in_group=host.accounts.members_of(host.group),
        elsewhere=host.ledger.members_elsewhere(course),
        with_records=frozenset(same_uid),
        with_material=frozenset(host.course_ledger.with_material() & same_uid),
        with_passwords=frozenset(host.course_ledger.with_passwords() & same_uid),
        taken_ports=_taken_ports(host) if wanted.keys() - members.keys() else frozenset(),
        spent_ports=host.ledger.spent_ports(course),
        desired=host.course_ledger.desired(),
        imported={name: one.port_offset for name, one in newcomers.items()},
        with_imported_passwords=frozenset(name for name, one in newcomers.items() if one.hash),
    )


def outside(host: Host, usernames: Iterable[str]) -> Facts:
    """What any account can see. Only root reads the ledger, so our mark on an account stands for our claim."""
    wanted = dict.fromkeys(usernames)
    found = {name: account for name in wanted if (account := host.accounts.lookup(name)) is not None}
    creates = host.settings.accounts.create
    is_one = AccountState.FOREIGN if creates else AccountState.GUEST
    states = {name: AccountState.COMPLETE if creates and account.nonce else is_one for name, account in found.items()}
    return Facts(
        course=host.settings.course,
        found=found,
        states=states,
        objections=_objections(host, found, states),
        groups=_groups(host, wanted, states),
        in_group=host.accounts.members_of(host.group),
    )


def _objections(host: Host, found: Mapping[str, Account], states: Mapping[str, AccountState]) -> Mapping[str, str]:
    return {
        name: why
        for name, account in found.items()
        if states[name] in (AccountState.FOREIGN, AccountState.GUEST)
        and (why := host.accounts.objection(account)) is not None
    }


def _groups(host: Host, usernames: Iterable[str], states: Mapping[str, AccountState]) -> Mapping[str, int]:
    return {
        name: gid
        for name in usernames
        if states.get(name, AccountState.ABSENT) in _WITHOUT_GROUP and (gid := host.accounts.gid_of(name)) is not None
    }


def account_state(claim: Claim | None, found: Account | None) -> AccountState:
    """The state of an account, from our record and what the host has (docs/security.md, promise 1)."""
    if claim is None:
        return AccountState.ABSENT if found is None else AccountState.FOREIGN
    if claim.is_guest:
        if found is None:
            return AccountState.VANISHED
        return AccountState.GUEST if found.uid == claim.account.uid else AccountState.FOREIGN
    state = state_of(claim.account, found)
    if claim.stage == "intended":
        # useradd writes our mark together with the name: an account without the mark was never ours.
        is_ours = state in (AccountState.COMPLETE, AccountState.VANISHED)
        return AccountState.HALF_MADE if is_ours else AccountState.FOREIGN
    return state


def student_account(host: Host, username: str) -> Account:
    """The account of a student that we may serve: ours (even if changed by hand), or a recorded guest.

    Every step asks again right before it acts. HostError says why we leave the account alone.
    """
    claim = host.ledger.claim(username)
    found = host.accounts.lookup(username)
    state = account_state(claim, found)
    if found is not None and state in (AccountState.COMPLETE, AccountState.CHANGED, AccountState.GUEST):
        if found.uid == 0:
            raise HostError(f"{username} has uid 0")
        return found
    raise HostError(
        {
            AccountState.ABSENT: "the account does not exist",
            AccountState.VANISHED: "the account was deleted by hand",
            AccountState.HALF_MADE: "the account was only half made",
        }.get(state, "the account is not one we made"),
        "Run `nblauncher setup`.",
    )


def claimed_account(host: Host, username: str) -> Account:
    """The account as recorded when we made it; the code that changes accounts compares it with the host."""
    claim = host.ledger.claim(username)
    if claim is None or claim.is_guest:
        raise HostError(f"the ledger has no claim on {username}")
    return claim.account


def _taken_ports(host: Host) -> frozenset[int]:
    owners = {port: course for port, (course, _student) in host.ledger.ports().items()}
    others = frozenset(port for port, course in owners.items() if course != host.settings.course)
    return others | (listening_ports() - owners.keys())


def listening_ports(*, uid: int | None = None) -> frozenset[int]:
    """TCP ports with a listening socket, of this uid or of any."""
    return frozenset(found.port for found in tcp_table.sockets() if found.is_listening and uid in (None, found.uid))
