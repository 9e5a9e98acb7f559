"""What is there now: the ledger's memory held against the host. Looks, changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nblauncher.accounts import state_of
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.ledger import Claim, CourseRecord, Membership
from nblauncher.model import Account, AccountState

_WITHOUT_GROUP = (AccountState.ABSENT, AccountState.VANISHED, AccountState.HALF_MADE)

_LISTENING = "0A"
"""TCP_LISTEN, include/net/tcp_states.h."""


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
    """Accounts whose home folder is gone, by a removal that did not finish or by hand."""
    objections: Mapping[str, str] = field(default_factory=dict)
    """Why an account that is not ours must not even be a guest."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Groups of the host that are called as a student whose account is not there or only half made; with their gid."""
    locked: frozenset[str] = frozenset()
    in_group: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    """Students who are in another course of this host as well."""
    with_records: frozenset[str] = frozenset()
    """Students whose records in this course were made for the account they have now; others' are void."""
    with_material: frozenset[str] = frozenset()
    """Students who were given all of the material once, for the account they have now."""
    with_passwords: frozenset[str] = frozenset()
    """Students whose passwords of this course are set, for the account they have now."""
    taken_ports: frozenset[int] = frozenset()
    """Ports of other courses, and ports that some other program listens on."""
    spent_ports: frozenset[int] = frozenset()
    desired: Mapping[str, str] = field(default_factory=dict)

    def state(self, username: str) -> AccountState:
        return self.states.get(username, AccountState.ABSENT)


def survey(host: Host, usernames: Iterable[str]) -> Facts:
    """Facts about these students, and about everybody who is in the course already. Changes nothing."""
    course = host.settings.course
    claims = host.ledger.claims()
    members = host.ledger.members(course)
    uids = host.course_ledger.uids()
    wanted = dict.fromkeys([*usernames, *members])
    found = {name: account for name in wanted if (account := host.accounts.lookup(name)) is not None}
    states = {name: account_state(claims.get(name), found.get(name)) for name in wanted}
    same_uid = {name for name, account in found.items() if uids.get(name) == account.uid}
    owned_ports = host.ledger.ports()
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
        in_group=host.accounts.members_of(host.group),
        elsewhere=host.ledger.members_elsewhere(course),
        with_records=frozenset(same_uid),
        with_material=frozenset(host.course_ledger.with_material() & same_uid),
        with_passwords=frozenset(host.course_ledger.with_passwords() & same_uid),
        taken_ports=frozenset(port for port, (owner, _) in owned_ports.items() if owner != course)
        | (listening_ports() - frozenset(port for port, (owner, _) in owned_ports.items() if owner == course)),
        spent_ports=host.ledger.spent_ports(course),
        desired=host.course_ledger.desired(),
    )


def outside(host: Host, usernames: Iterable[str]) -> Facts:
    """What everybody may see of these students. The ledger is root's: our mark stands for the claim on an account."""
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
    """What to call the pair of what we recorded and what the host has (DESIGN promise 1)."""
    if claim is None:
        return AccountState.ABSENT if found is None else AccountState.FOREIGN
    if claim.is_guest:
        if found is None:
            return AccountState.VANISHED
        return AccountState.GUEST if found.uid == claim.account.uid else AccountState.FOREIGN
    state = state_of(claim.account, found)
    if claim.stage == "intended":
        # useradd writes our mark with the name: whatever has the name without it was never ours.
        is_ours = state in (AccountState.COMPLETE, AccountState.VANISHED)
        return AccountState.HALF_MADE if is_ours else AccountState.FOREIGN
    return state


def student_account(host: Host, username: str) -> Account:
    """The account of a student whom we may serve now: ours (also changed by hand), or a recorded guest.

    Every step asks again right before it acts. HostError says why we keep our hands off.
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
        "run `nblauncher setup`",
    )


def claimed_account(host: Host, username: str) -> Account:
    """The account as we recorded it when we made it; what changes accounts holds it against the host itself."""
    claim = host.ledger.claim(username)
    if claim is None or claim.is_guest:
        raise HostError(f"the ledger has no claim on {username}")
    return claim.account


def listening_ports(*, uid: int | None = None) -> frozenset[int]:
    """TCP ports that somebody listens on, or this uid, v4 or v6 (proc(5), /proc/net/tcp). Unlike psutil, asks no
    process.
    """
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table, encoding="ascii") as stream:
            for line in stream.readlines()[1:]:
                _number, local, _remote, state, _queues, _timer, _retransmits, owner = line.split()[:8]
                if state == _LISTENING and uid in (None, int(owner)):
                    found.add(int(local.rpartition(":")[2], 16))
    return frozenset(found)
