"""Which students the teachers locked out, and what follows for the account, which several courses may share.

An account is locked when every course of the student's has locked the student out, and is opened again when one has not
any more. Accounts of guests are never touched.
"""

from __future__ import annotations

from datetime import datetime

from nblauncher.config import times
from nblauncher.ledger import lockouts
from nblauncher.model import Account, AccountState
from nblauncher.paths import CoursePaths
from nblauncher.planning import survey
from nblauncher.planning.host import Host


def words(host: Host) -> dict[str, str]:
    """The students whom this course has locked out: username → what `status` says of them."""
    locked = lockouts.read(host.paths.lockouts)
    return {name: f"locked since {times.short(datetime.fromisoformat(since))}" for name, since in locked.items()}


def is_locked_everywhere(host: Host, username: str) -> bool:
    """Whether every course of the student's, this one included, has locked the student out."""
    return bool(host.ledger.courses_of(username)) and not courses(host, username, locked_out=False)


def courses(host: Host, username: str, *, locked_out: bool) -> tuple[str, ...]:
    """The student's courses, this one included, that have, or have not, locked the student out."""
    found = host.ledger.courses_of(username)
    return tuple(one for one in found if (username in lockouts.read(CoursePaths(one).lockouts)) == locked_out)


def lacks_lock(host: Host, username: str) -> bool:
    """Whether the account is open and should be locked. Changes nothing."""
    account = _account(host, username)
    return account is not None and is_locked_everywhere(host, username) and not host.accounts.is_locked(account)


def keep_locked(host: Host, username: str) -> None:
    account = _account(host, username)
    if account is not None and lacks_lock(host, username):
        host.accounts.lock(account, locks=host.locks)


def reopen(host: Host, username: str) -> None:
    """For a student whom a course has locked out: an account that an administrator locked by hand stays locked."""
    account = _account(host, username)
    if account is not None and host.accounts.is_locked(account):
        host.accounts.unlock(account, locks=host.locks)


def _account(host: Host, username: str) -> Account | None:
    """The account, if it is ours to lock."""
    claim = host.ledger.claim(username)
    if claim is None or claim.is_guest or claim.stage != "made":
        return None
    found = host.accounts.lookup(username)
    return claim.account if survey.account_state(claim, found) is AccountState.COMPLETE else None
