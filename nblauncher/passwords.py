"""Generated passwords: made, shown, typed back, hashed and checked the same way everywhere.

16 characters of a 31-letter alphabet without look-alikes, in groups of four: `abcd-efgh-jkmn-pqrs`, 79 bits.
Hashes are Jupyter's `argon2:` + PHC string (jupyter_server.auth.security.passwd_check).
"""

from __future__ import annotations

import secrets

from passlib.hash import argon2

from nblauncher.model import Secret

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
LENGTH = 16
GROUP = 4

_PREFIX = "argon2:"
# OWASP's second choice for argon2id. Small is enough: nobody guesses 79 random bits, and a class has 200 of them.
_HASHER = argon2.using(type="ID", rounds=2, memory_cost=19456, parallelism=1)  # type: ignore[no-untyped-call]


def generate() -> Secret:
    """A new password in the form in which it is shown, typed and hashed."""
    return Secret(_grouped("".join(secrets.choice(ALPHABET) for _ in range(LENGTH))))


def regroup(typed: str) -> str:
    """What a person typed, in the form in which it was hashed: lower case, no spaces, hyphens in place."""
    return _grouped("".join(typed.lower().replace("-", "").split()))


def jupyter_hash(password: Secret) -> str:
    """The argon2 hash for Jupyter of the password exactly as the credentials file shows it. 18 ms of CPU."""
    return _PREFIX + str(_HASHER.hash(password.reveal()))


def is_right(typed: str, hashed: str) -> bool:
    """Whether `typed`, after `regroup`, is the password of a hash made by `jupyter_hash`. 18 ms of CPU."""
    return bool(_HASHER.verify(regroup(typed), hashed.removeprefix(_PREFIX)))


def _grouped(letters: str) -> str:
    return "-".join(letters[start : start + GROUP] for start in range(0, len(letters), GROUP))
