"""nblauncher's own system accounts in tests: there while a test needs them, gone if it was the one who made them."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS, passwd

HIGHEST_GROUP = "nbt-highest"


@contextlib.contextmanager
def kept_as_found() -> Iterator[None]:
    missing = [name for name in SYSTEM_ACCOUNTS if not _exists(name)]
    try:
        yield
    finally:
        for name in filter(_exists, missing):
            delete_account(name)


def delete_account(name: str, *options: str, before: Callable[[], object] = lambda: None) -> None:
    """userdel(8), until the account is gone: it gives up when other workers keep the accounts locked for 15 seconds, or
    when a process of the account, which was killed, has not ended yet. `before` is called before each attempt.
    """
    deadline = time.monotonic() + 60
    while _exists(name):
        before()
        done = subprocess.run(["userdel", *options, "--", name], check=False, capture_output=True, text=True)
        assert time.monotonic() < deadline, f"{name} cannot be deleted: {done.stderr}{_processes(name)}"
        if _exists(name):
            time.sleep(0.2)


def reserve_highest_group_id() -> None:
    """groupadd(8) takes the number after the highest, which is the next uid of the class with the highest uids. While
    the highest possible number is taken, it takes the lowest free one, which no test's range contains.

    On a real host the lock of the accounts keeps such commands apart; each test worker has a state folder, and so a
    lock, of its own.
    """
    deadline = time.monotonic() + 60
    highest = passwd.system_number("GID_MAX", 60000)
    while passwd.group_of_gid(highest) is None:
        command = ["groupadd", "-g", str(highest), HIGHEST_GROUP]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert time.monotonic() < deadline, f"group {HIGHEST_GROUP} cannot be made: {done.stderr}"


def release_highest_group_id() -> None:
    if passwd.find_group(HIGHEST_GROUP) is not None:
        subprocess.run(["groupdel", HIGHEST_GROUP], check=True, capture_output=True)


def end_sessions(uid: int) -> None:
    """systemd-logind keeps a manager for whoever logged in (`su` does) for ten seconds after their last session."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "stop", f"user@{uid}.service"], check=True)


def _processes(name: str) -> str:
    """One line for each process of the account, dead ones that nobody waited for included."""
    listing = ["ps", "-o", "pid,ppid,stat,etime,wchan:20,args", "-u", name]
    return subprocess.run(listing, check=False, capture_output=True, text=True).stdout


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
