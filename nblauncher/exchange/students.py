"""The one check before a child works in a home: uid 0 is not a student's."""

from __future__ import annotations

from nblauncher.errors import RefusedError
from nblauncher.model import Account


def student(account: Account) -> Account:
    """The account, for a child that works in its home. RefusedError for uid 0."""
    if account.uid == 0:
        raise RefusedError(f"{account.username} has uid 0; a student's home is never handled by root")
    return account
