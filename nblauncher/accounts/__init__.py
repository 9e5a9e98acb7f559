"""The first seam: what we ask of an operating system's accounts, and how we tell ours from other people's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from nblauncher.errors import RefusedError
from nblauncher.model import Account, AccountState, Secret

NONCE_PREFIX = "nbl-"
SYSTEM_ACCOUNTS = ("nblauncher", "nblauncher-kill", "nblauncher-build")
"""Who runs the front page, and whose real uid a kill sweep has."""


class Accounts(Protocol):
    """Accounts, groups and uid-wide ends. Called as root.

    An `account` argument is the ledger's claim. Whatever changes an account first looks at the host again and raises
    RefusedError, having changed nothing, unless the host's account is COMPLETE (`state_of`). HostError means that the
    host said no. `locks` are descriptors that the system's tools inherit, so that they finish before the next run.
    """

    def lookup(self, username: str) -> Account | None:
        """The host's account of that name from every source (files, LDAP, ...), with its nonce if it has one."""

    def name_of(self, uid: int) -> str | None:
        """Whose uid this is."""

    def uid_is_free(self, uid: int) -> bool:
        """Whether no account, no group and no subordinate range has this number."""

    def objection(self, account: Account) -> str | None:
        """Why an existing account must not be a student's, not even a guest's: system uid, privileged group."""

    def members_of(self, group: str) -> frozenset[str]:
        """Names in a supplementary group; empty when there is no such group."""

    def gid_of(self, group: str) -> int | None:
        """The number of a group, from every source; None when there is no such group."""

    def is_locked(self, account: Account) -> bool:
        """Whether neither password nor key opens it."""

    def create(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        """Make it, locked against passwords, with a new 0700 home. Returns it as the host has it (its gid).

        Refuses a name, uid, group or home folder that exists. One at a time on a host.
        """

    def repair(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        """After a crash in `create`: keep it when it is complete after all, else `discard` and `create`."""

    def discard(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Remove what an interrupted `create` left: entries with our uid and nonce, a home that nobody has used."""

    def reclaim(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """The teacher says that an account CHANGED by hand is ours (`remove --claim`): write our nonce again."""

    def set_passwords(self, passwords: Mapping[str, Secret], *, locks: Collection[int] = ()) -> dict[str, str]:
        """Set system passwords of accounts that carry a nonce. Returns username → why, for the ones that failed."""

    def lock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Nobody logs in any more: not by password, key, cron or at. Nothing that runs is ended."""

    def unlock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Undo `lock`; the password is the one from before."""

    def ensure_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        """Make a group `nbl-COURSE` unless it is there."""

    def add_to_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        """Make them members of a course's group, keeping the others."""

    def remove_from_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        """Take them out of a course's group; the account need not exist any more."""

    def remove_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        """Remove a course's group that the caller recorded as made by us; nothing when it is gone."""

    def mounts_in_home(self, account: Account) -> list[str]:
        """What is mounted at or below the home: other people's files, which no removal may reach."""

    def remove_schedules(self, account: Account) -> tuple[str, ...]:
        """Remove what would start something later: crontab, at jobs, linger. Returns what was removed, in words."""

    def kill_everything(self, account: Account) -> None:
        """End every process of the uid, also one that forks faster than it can be counted."""

    def delete(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Remove home, mail spool, schedules and account, in this order; running it again finishes it.

        The caller has retrieved and verified the home in this run. Refuses while processes of the uid run, or
        when something is mounted in the home.
        """

    def ensure_system_accounts(self, *, locks: Collection[int] = ()) -> None:
        """Make SYSTEM_ACCOUNTS where missing and prove that they are unprivileged."""

    def objections_to_system_accounts(self) -> tuple[str, ...]:
        """Why `ensure_system_accounts` would refuse those that are there, one each; looks only."""

    def idle_builder(self) -> Account:
        """The system account that builds packages, after its processes and whatever it has on this host were removed.

        HostError when something stays: what one course's packages leave must not be there when another's are built.
        """

    def leftovers_of_builder(self) -> tuple[str, ...]:
        """What that account has on this host, in words: processes, crontab, at jobs, linger, IPC, files; looks only."""


def nonce_in(gecos: str) -> str:
    """Our nonce in a GECOS text, or "". Its owner may add fields behind it (`chfn -r 12`), so only the first counts."""
    first = gecos.split(",")[0]
    return first if first.startswith(NONCE_PREFIX) else ""


def state_of(claim: Account, found: Account | None) -> AccountState:
    """What the ledger's claim and the host's account of that name amount to (DESIGN promise 1).

    A claim without a nonce is a guest's and never becomes ours.
    """
    if found is None:
        return AccountState.VANISHED
    if found.uid != claim.uid or found.username != claim.username:
        return AccountState.FOREIGN
    if not claim.nonce:
        return AccountState.GUEST
    if found.home != claim.home:
        return AccountState.FOREIGN
    return AccountState.COMPLETE if found.nonce == claim.nonce else AccountState.CHANGED


def refuse_unless(wanted: AccountState, claim: Account, found: Account | None) -> None:
    """RefusedError with the reason unless claim and host stand in the wanted state."""
    state = state_of(claim, found)
    if state is wanted:
        return
    name = claim.username
    raise RefusedError(
        {
            AccountState.VANISHED: f"the account {name} no longer exists",
            AccountState.FOREIGN: f"the account {name} is not the one we made (its uid or home is another)",
            AccountState.GUEST: f"the account {name} is a guest: we did not make it",
            AccountState.CHANGED: f"the account {name} was changed by hand: it no longer carries our mark",
        }.get(state, f"the account {name} is as we made it"),
        "It was left alone.",
    )
