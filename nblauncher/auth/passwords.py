"""Generated passwords, in one form for showing, typing, hashing and checking.

16 characters of a 31-letter alphabet without look-alikes, in groups of four: `abcd-efgh-jkmn-pqrs`, 79 bits.
Hashes are Jupyter's `argon2:` + PHC string (jupyter_server.auth.security.passwd_check).
"""

from __future__ import annotations

import re
import secrets

from passlib.hash import argon2

from nblauncher.model import Secret

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
LENGTH = 16
GROUP = 4

_FORM = re.compile(rf"[{ALPHABET}]{{{GROUP}}}(?:-[{ALPHABET}]{{{GROUP}}}){{{LENGTH // GROUP - 1}}}")
_PREFIX = "argon2:"
# 79 random bits cannot be guessed however cheap a guess is, so the stretching that human passwords need would only make
# `setup` and each sign-in slower (25 ms instead of 4 ms). It is argon2 because Jupyter checks that.
_HASHER = argon2.using(type="ID", rounds=1, memory_cost=8192, parallelism=1)  # type: ignore[no-untyped-call]


def generate() -> Secret:
    """A new password, in groups of four."""
    return Secret(_grouped("".join(secrets.choice(ALPHABET) for _ in range(LENGTH))))


def regroup(typed: str) -> str:
    """Typed text in the form that was hashed: lower case, no spaces, hyphens in place."""
    return _grouped("".join(typed.lower().replace("-", "").split()))


def is_well_formed(text: str) -> bool:
    """Whether this is the form of a generated password."""
    return _FORM.fullmatch(text) is not None


def jupyter_hash(password: Secret) -> str:
    """The argon2 hash for Jupyter of the password exactly as the credentials file shows it. 4 ms of CPU."""
    return _PREFIX + str(_HASHER.hash(password.reveal()))


def is_right(typed: str, hashed: str) -> bool:
    """Whether `typed`, after `regroup`, is the password of a hash made by `jupyter_hash`. 4 ms of CPU."""
    return bool(_HASHER.verify(regroup(typed), hashed.removeprefix(_PREFIX)))


def _grouped(letters: str) -> str:
    return "-".join(letters[start : start + GROUP] for start in range(0, len(letters), GROUP))
