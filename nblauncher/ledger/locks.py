"""Locks: one nblauncher at a time may change a course, and one the host's accounts."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nblauncher.errors import BusyError, HostError
from nblauncher.system import interruption

PATIENCE = 10.0
"""Seconds to wait for another run before giving up (exit code 6)."""


@contextmanager
def locked(file: Path, what: str, *, patience: float = PATIENCE, makes_folder: bool = True) -> Iterator[int]:
    """Hold an exclusive flock(2) on `file`, made 0600 when missing. Yields the descriptor.

    Pass the descriptor to useradd, userdel and chpasswd: the lock is held as long as one of them runs, even if we are
    killed. BusyError after `patience` seconds, naming `what` is being changed; HostError when the folder is gone and we
    must not make it.
    """
    deadline = time.monotonic() + patience
    while True:
        if makes_folder:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not file.parent.is_dir():
            raise HostError(f"{what} was removed", "Nothing was changed.")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _wait_for(descriptor, what, patience, deadline)
            if _is_still(file, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_still(file: Path, descriptor: int) -> bool:
    """Whether the file is still the locked one: `remove` deletes it, and then the lock protects nothing."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _wait_for(descriptor: int, what: str, patience: float, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BusyError(
                    f"another nblauncher is still changing {what} after {patience:.0f} s",
                    "Nothing was changed. Wait until it is done, then run the command again.",
                ) from None
            interruption.sleep(0.1)
