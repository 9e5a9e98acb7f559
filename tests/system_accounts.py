"""nblauncher's own system accounts in tests: there while a test needs them, gone if it was the one who made them."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
from collections.abc import Iterator

from nblauncher.accounts import SYSTEM_ACCOUNTS


@contextlib.contextmanager
def kept_as_found() -> Iterator[None]:
    missing = [name for name in SYSTEM_ACCOUNTS if not _exists(name)]
    try:
        yield
    finally:
        for name in filter(_exists, missing):
            subprocess.run(["userdel", "--", name], check=True)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
