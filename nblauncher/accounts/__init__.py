"""The first seam: the operating system's accounts, and how we recognize our own.

Run by: root.
May import: system.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from nblauncher.errors import RefusedError
from nblauncher.model import Account, AccountState, Secret

NONCE_PREFIX = "nbl-"
SYSTEM_ACCOUNTS = ("nblauncher", "nblauncher-kill", "nblauncher-build")
"""They run the front page, lend their real uid to a kill sweep, and build packages."""


class Accounts(Protocol):
    """Accounts, groups, and ending all processes of a uid. Called as root.

    An `account` argument is the ledger's claim. Each method that changes an account first looks at the host again and
    raises RefusedError, without a change, unless the host's account is COMPLETE (`state_of`). HostError means that the
    host failed. `locks` are descriptors that the system's tools inherit, so that they finish before the next run.
    """

    def lookup(self, username: str) -> Account | None:
        """The host's account of that name from every source (files, LDAP, ...), with its nonce if it has one."""

    def name_of(self, uid: int) -> str | None:
        """The account that has this uid."""

    def uid_is_free(self, uid: int) -> bool:
        """Whether no account, no group and no subordinate range has this number."""

    def objection(self, account: Account) -> str | None:
        """Why an existing account must not be a student's, not even a guest's: a system uid, a privileged group."""

    def members_of(self, group: str) -> frozenset[str]:
        """Names in a supplementary group; empty when there is no such group."""

    def gid_of(self, group: str) -> int | None:
        """The number of a group, from every source; None when there is no such group."""

    def is_locked(self, account: Account) -> bool:
        """Whether neither password nor key opens it."""

    def create(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        """Make it, with a locked password and a new 0700 home. Returns it with the gid that the host gave it.

        Refuses an existing name, uid, group or home folder. One at a time on a host.
        """

    def repair(self, account: Account, *, locks: Collection[int] = ()) -> Account:
        """After a crash in `create`: keep it when it is complete after all, else `discard` and `create`."""

    def discard(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Remove what an interrupted `create` left: entries with our uid and nonce, an unused home."""

    def reclaim(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Write our nonce again: the teacher says that an account CHANGED by hand is ours (`remove --claim`)."""

    def set_passwords(self, passwords: Mapping[str, Secret], *, locks: Collection[int] = ()) -> dict[str, str]:
        """Set system passwords of accounts that carry a nonce. Returns username → why, for the ones that failed."""

    def disable_passwords(self, usernames: Collection[str], *, locks: Collection[int] = ()) -> dict[str, str]:
        """No password opens these accounts, which carry a nonce, until one is set again. A lock stays. Returns
        username → why, for the ones that failed.
        """

    def lock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Prevent logins by password, key, cron and at. Running processes go on."""

    def unlock(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Undo `lock`; the old password is valid again."""

    def ensure_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        """Make a group `nbl-COURSE` unless it is there."""

    def add_to_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        """Make them members of a course's group, keeping the others."""

    def remove_from_group(self, accounts: Sequence[Account], group: str, *, locks: Collection[int] = ()) -> None:
        """Take them out of a course's group; the account need not exist any more."""

    def remove_group(self, group: str, *, locks: Collection[int] = ()) -> None:
        """Remove a course's group that the caller recorded as made by us; nothing when it is gone."""

    def mounts_in_home(self, account: Account) -> list[str]:
        """Mounts at or below the home: they hold other files, which no removal may reach."""

    def remove_schedules(self, account: Account) -> tuple[str, ...]:
        """Remove crontab, at jobs and linger, which would start processes later. Returns what was removed."""

    def kill_everything(self, account: Account) -> None:
        """End every process of the uid, also one that forks all the time."""

    def delete_home(self, account: Account) -> None:
        """Remove the home alone, the first part of `delete`, which follows. The caller has emptied it in this run."""

    def delete(self, account: Account, *, locks: Collection[int] = ()) -> None:
        """Remove home, mail spool, schedules and account, in this order; after a crash, call it again.

        The caller has retrieved and verified the home in this run. Refuses while processes of the uid run, or
        when something is mounted in the home.
        """

    def ensure_system_accounts(self, *, locks: Collection[int] = ()) -> None:
        """Make missing SYSTEM_ACCOUNTS, and check that they are unprivileged."""

    def objections_to_system_accounts(self) -> tuple[str, ...]:
        """Why `ensure_system_accounts` would refuse existing ones, a line for each; looks only."""

    def idle_builder(self) -> Account:
        """The system account that builds packages, after its processes and all of its files on this host were removed.

        HostError when something stays: one course's packages must leave nothing for the next build to find.
        """

    def leftovers_of_builder(self) -> tuple[str, ...]:
        """What that account has on this host: processes, crontab, at jobs, linger, IPC, files; looks only."""


def nonce_in(gecos: str) -> str:
    """Our nonce in a GECOS text, or "". Its owner may add fields behind it (`chfn -r 12`), so only the first counts."""
    first = gecos.split(",")[0]
    return first if first.startswith(NONCE_PREFIX) else ""


def state_of(claim: Account, found: Account | None) -> AccountState:
    """Compare the ledger's claim with the host's account of that name (docs/security.md, promise 1).

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
    """RefusedError with the reason, unless claim and host are in the wanted state."""
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
