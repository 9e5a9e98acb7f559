"""nblauncher's own system accounts in tests: there while a test needs them, gone if it was the one who made them."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS


@contextlib.contextmanager
def kept_as_found() -> Iterator[None]:
    missing = [name for name in SYSTEM_ACCOUNTS if not _exists(name)]
    try:
        yield
    finally:
        for name in filter(_exists, missing):
            subprocess.run(["userdel", "--", name], check=True)


def end_sessions(uid: int) -> None:
    """systemd-logind keeps a manager for whoever logged in (`su` does) for ten seconds after their last session."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "stop", f"user@{uid}.service"], check=True)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
