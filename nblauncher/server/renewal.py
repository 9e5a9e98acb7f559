"""A new password for a running server: every sign-in so far ends, and kernels and terminals go on.

Root writes the new hash into a file of the student's in a folder of root's, and sends SIGUSR1. The server truncates the
file once it has taken the hash over; that is how root learns of it (nblauncher.commands.running.renewal). Runs in the
student's process, without importing Jupyter.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR1
_LARGEST = 4096


def file_of(run: Path, uid: int) -> Path:
    """The student's file in a folder of root's (0711). `run` is the class's runtime folder."""
    return run / "renewals" / str(uid)


def content(hashed_password: str) -> bytes:
    """What root writes into it."""
    return json.dumps({"hashed_password": hashed_password}).encode("ascii")


def cookie_secret(base: bytes, hashed_password: str) -> bytes:
    """What the login cookies are signed with. It changes with the password, also while no server runs."""
    return hmac.new(base, hashed_password.encode("ascii"), hashlib.sha256).digest()


class Renewal:
    """Listens for SIGNAL. `renew` is called with the new hash."""

    def __init__(self, file: Path, renew: Callable[[str], None]) -> None:
        self._file, self._renew = file, renew

    def listen(self) -> None:
        """From now on the signal is handled; before, it would end the process."""
        asyncio.get_running_loop().add_signal_handler(SIGNAL, self.apply)

    def apply(self) -> None:
        """Take the new hash over. A signal without a file, which the student can send, does nothing."""
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            given = json.loads(os.pread(descriptor, _LARGEST, 0) or "{}")
            if hashed := given.get("hashed_password"):
                self._renew(str(hashed))
                os.ftruncate(descriptor, 0)
                log.warning("The password was changed: every sign-in so far has ended.")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            log.error("the new password was not taken over: %s", error)
        finally:
            os.close(descriptor)
