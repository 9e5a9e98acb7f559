"""Honest stand-ins for the seams: they keep what they are told in memory and refuse what the real ones refuse.

tests/contract runs one suite on each fake and on its real counterpart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS, refuse_unless
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account, AccountState, Secret

LOWEST_UID = 1000


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeAccounts:
    """Accounts of a host that is only a few dictionaries. Tests may change these "by hand", as an administrator."""

    accounts: dict[str, Account] = field(default_factory=dict)
    gids: dict[str, int] = field(default_factory=dict)
    """Groups: name → gid. An account's own group is among them."""
    members: dict[str, set[str]] = field(default_factory=dict)
    passwords: dict[str, Secret] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    homes: dict[str, set[str]] = field(default_factory=dict)
    """Home path → names of files in it that are not from the skeleton."""
    unfinished: set[str] = field(default_factory=set)
    """Names whose creation was cut short."""
    running: dict[int, int] = field(default_factory=dict)
    """uid → how many processes."""
    schedules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    privileged: dict[str, str] = field(default_factory=lambda: {"sudo": "may become root"})
    failing: dict[str, str] = field(default_factory=dict)
    """Names for which `create` and `set_passwords` fail, and why: a full disk, say."""

    # Looking.

    def lookup(self, username: str) -> Account | None:
        return self.accounts.get(username)

    def name_of(self, uid: int) -> str | None:
        return next((account.username for account in self.accounts.values() if account.uid == uid), None)

    def uid_is_free(self, uid: int) -> bool:
        return self.name_of(uid) is None and uid not in self.gids.values()

    def objection(self, account: Account) -> str | None:
        if account.uid < LOWEST_UID:
            return "it is root" if account.uid == 0 else f"its uid {account.uid} is below {LOWEST_UID}"
        for group, reason in self.privileged.items():
            if account.username in self.members.get(group, ()):
                return f'it is in group "{group}", which {reason}'
        return None

    def members_of(self, group: str) -> frozenset[str]:
        return frozenset(self.members.get(group, ()))

    def gid_of(self, group: str) -> int | None:
        return self.gids.get(group)

    def is_locked(self, account: Account) -> bool:
        return account.username in self.locked

    # Making.

    def create(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        name = account.username
        if not account.nonce:
            raise RefusedError("an account of ours carries a nonce")
        if name in self.accounts or name in self.gids or not self.uid_is_free(account.uid):
            raise RefusedError(f"name or uid of {name} is taken")
        if str(account.home) in self.homes:
            raise RefusedError(f"{account.home} exists already")
        if name in self.failing:
            raise HostError(self.failing[name])
        made = replace(account, gid=account.uid)
        self.accounts[name] = made
        self.gids[name] = made.gid
        self.homes[str(account.home)] = set()
        return made

    def repair(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        found = self.lookup(account.username)
        if found is not None:
            refuse_unless(AccountState.COMPLETE, account, found)
            if account.username not in self.unfinished:
                return found
        self.discard(account, locks=locks)
        return self.create(account, locks=locks)

    def discard(self, account: Account, *, locks: Collection[int] = ()) -> None:
        found = self.lookup(account.username)
        if found is not None:
            refuse_unless(AccountState.COMPLETE, account, found)
            self._refuse_while_running(account)
        if self.homes.get(str(account.home)):
            raise RefusedError(f"{account.home} has files that useradd did not put there")
        self._forget(account)

    def ensure_system_accounts(self, *, locks: Collection[int] = ()) -> None:
        for uid, name in enumerate(SYSTEM_ACCOUNTS, start=900):
            self.accounts.setdefault(name, Account(name, uid, uid, Path("/nonexistent"), "/usr/sbin/nologin"))

    def objections_to_system_accounts(self) -> tuple[str, ...]:
        return tuple(f"there is a group {name}" for name in SYSTEM_ACCOUNTS if name in self.gids)

    # Changing.

    def reclaim(self, account: Account, *, locks: Collection[int] = ()) -> None:
        refuse_unless(AccountState.CHANGED, account, self.lookup(account.username))
        self.accounts[account.username] = replace(self.accounts[account.username], nonce=account.nonce)

    def set_passwords(self, passwords: Mapping[str, Secret], *, locks: Collection[int] = ()) -> dict[str, str]:
        failures = {}
        for name, secret in passwords.items():
            found = self.lookup(name)
            if found is None or not found.nonce or self.objection(found):
                failures[name] = "the account is not one we made"
            elif name in self.failing or not secret.reveal().isprintable():
                failures[name] = self.failing.get(name, "the password has characters that cannot be set")
            else:
                self.passwords[name] = secret
        return failures

    def disable_passwords(self, usernames: Collection[str], *, locks: Collection[int] = ()) -> dict[str, str]:
        failures = self.set_passwords(dict.fromkeys(usernames, Secret("*")), locks=locks)
        for name in set(usernames) - set(failures):
            del self.passwords[name]
        return failures

    def lock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        self._refuse_unless_ours(account)
        self.locked.add(account.username)

    def unlock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        self._refuse_unless_ours(account)
        self.locked.discard(account.username)

    # Groups.

    def ensure_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        _refuse_odd_group(group)
        self.gids.setdefault(group, max([29_999, *self.gids.values()]) + 1)
        self.members.setdefault(group, set())

    def add_to_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        for account in accounts:
            found = self.lookup(account.username)
            if found is None or found.uid != account.uid:
                raise RefusedError(f"{account.username} is no longer the account with uid {account.uid}")
        self._course_group(group).update(account.username for account in accounts)

    def remove_from_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        self._course_group(group).difference_update(account.username for account in accounts)

    def remove_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        _refuse_odd_group(group)
        self.gids.pop(group, None)
        self.members.pop(group, None)

    # Ending.

    def mounts_in_home(self, account: Account) -> list[str]:
        return []

    def remove_schedules(self, account: Account) -> tuple[str, ...]:
        self._refuse_unless_ours(account)
        return self.schedules.pop(account.username, ())

    def kill_everything(self, account: Account) -> None:
        self._refuse_unless_ours(account)
        self.running.pop(account.uid, None)

    def idle_builder(self) -> Account:
        return self.accounts[SYSTEM_ACCOUNTS[2]]

    def leftovers_of_builder(self) -> tuple[str, ...]:
        return self.schedules.get(SYSTEM_ACCOUNTS[2], ())

    def delete_home(self, account: Account) -> None:
        self._refuse_unless_ours(account)
        self._refuse_while_running(account)
        self.homes.pop(str(account.home), None)

    def delete(self, account: Account, *, locks: Collection[int] = ()) -> None:
        if account.username not in self.accounts and str(account.home) not in self.homes:
            return
        self._refuse_unless_ours(account)
        self._refuse_while_running(account)
        self._forget(account)

    # What the above consist of.

    def _refuse_unless_ours(self, account: Account) -> None:
        refuse_unless(AccountState.COMPLETE, account, self.lookup(account.username))

    def _refuse_while_running(self, account: Account) -> None:
        if self.running.get(account.uid):
            raise RefusedError(f"processes of {account.username} still run")

    def _forget(self, account: Account) -> None:
        name = account.username
        self.homes.pop(str(account.home), None)
        for names in (self.accounts, self.gids, self.passwords, self.schedules):
            names.pop(name, None)
        for group in (self.locked, self.unfinished, *self.members.values()):
            group.discard(name)

    def _course_group(self, group: str) -> set[str]:
        _refuse_odd_group(group)
        if group not in self.members:
            raise HostError(f"there is no group {group}")
        return self.members[group]


def _refuse_odd_group(group: str) -> None:
    if not group.startswith("nbl-"):
        raise RefusedError(f"{group!r} is not a name for a course's group")
