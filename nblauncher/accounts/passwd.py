"""The local account databases: the shadow tools that change them, and the files that a killed tool leaves.

Sources: useradd(8), userdel(8), lckpwdf(3), shadow(5), login.defs(5); lock protocol tried with shadow 4.13.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import logging
import os
import pwd
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from nblauncher.errors import HostError, RefusedError
from nblauncher.model import USERNAME, Account, Secret
from nblauncher.system.processes import run

log = logging.getLogger(__name__)

PRIVILEGED_GROUPS = {
    "root": "owns system files",
    "sudo": "may become root",
    "wheel": "may become root",
    "admin": "may become root",
    "adm": "reads the system's logs",
    "systemd-journal": "reads the system's logs",
    "shadow": "reads password hashes",
    "disk": "reads every file past the file system",
    "kmem": "reads the kernel's memory",
    "input": "reads the keyboard",
    "staff": "writes to /usr/local",
    "docker": "is as good as root",
    "lxd": "is as good as root",
    "incus-admin": "is as good as root",
    "libvirt": "is as good as root",
    "nblauncher": "is our front page's",
    "nblauncher-kill": "is our sweeper's",
}
_DATABASES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
NOBODY = (65534, 65535, 4294967294)
_LOCK_DEADLINE = 15.0  # seconds; what the shadow tools themselves wait for .pwd.lock
_GROUP = re.compile(r"nbl-[a-z][a-z0-9-]{0,19}")
_NONCE = re.compile(r"nbl-[A-Za-z0-9]{1,64}")


def shadow_tool(*argv: str, input: Secret | None = None, timeout: float = 60.0, locks: Collection[int] = ()) -> None:
    """Run useradd, userdel, usermod, chpasswd, gpasswd, groupadd or groupdel. HostError with its last words."""
    clear_stale_locks()
    run(argv, input=input, timeout=timeout, inherit=locks)


def refuse_odd_words(account: Account) -> None:
    """RefusedError if a tool's option parser or passwd(5) could misread one of the account's words."""
    home = str(account.home)
    if not USERNAME.fullmatch(account.username):
        raise RefusedError(f"{account.username!r} is not a valid name for a student's account")
    if not _NONCE.fullmatch(account.nonce):
        raise RefusedError(f"{account.nonce!r} is not a mark that nblauncher writes")
    if account.uid < system_number("UID_MIN", 1000) or account.uid in NOBODY:
        raise RefusedError(f"uid {account.uid} of {account.username} is the system's")
    if account.home.name != account.username or os.path.normpath(home) != home or not account.home.is_absolute():
        raise RefusedError(f"{home!r} is not a home folder for {account.username}")
    if any(re.search(r"[:\x00-\x1f\x7f]", word) for word in (home, account.shell)):
        raise RefusedError(f"home {home!r} or shell {account.shell!r} has a character that passwd(5) cannot hold")


def refuse_odd_group(group: str) -> None:
    if not _GROUP.fullmatch(group):
        raise RefusedError(f"{group!r} is not a name for a course's group")


def find_user(username: str) -> pwd.struct_passwd | None:
    """The name's entry from every source that nsswitch.conf lists."""
    try:
        return pwd.getpwnam(username)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        return None


def find_group(group: str) -> grp.struct_group | None:
    try:
        return grp.getgrnam(group)
    except (KeyError, ValueError):
        return None


def group_of_gid(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def is_subordinate(number: int) -> bool:
    """Whether an account may use this uid or gid in a user namespace (subuid(5))."""
    for file in ("/etc/subuid", "/etc/subgid"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(file).read_text(errors="replace").splitlines():
                fields = line.split(":")
                if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                    first, count = int(fields[1]), int(fields[2])
                    if first <= number < first + count:
                        return True
    return False


def privileged_groups_of(account: Account) -> Iterator[tuple[str, str]]:
    """Name and reason of each group of the account that is more than a student may have."""
    for gid in os.getgrouplist(account.username, account.gid):
        name = "root" if gid == 0 else group_of_gid(gid)
        if name in PRIVILEGED_GROUPS:
            yield name, PRIVILEGED_GROUPS[name]


def system_number(key: str, default: int) -> int:
    """A number of /etc/login.defs, such as UID_MIN."""
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/etc/login.defs").read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == key and words[1].isdecimal():
                return int(words[1])
    return default


def shadow_fields(username: str) -> list[str] | None:
    """The name's line of /etc/shadow, split; None when it has none."""
    with open("/etc/shadow", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            fields = line.rstrip("\n").split(":")
            if fields[0] == username and len(fields) >= 9:
                return fields
    return None


def clear_stale_locks() -> None:
    """Remove lock files that a killed tool or a power cut left, and that would block all later tools for ever.

    The shadow tools clear one with a dead pid, but neither an empty one nor one with a reused pid. No other process
    changes the databases while we hold .pwd.lock (lckpwdf), so a lock file that exists then is stale.
    """
    if not any(os.path.lexists(_lock_file(name)) for name in _DATABASES):
        return
    with _database_lock():
        for name in _DATABASES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_lock_file(name))
                log.warning("removed the stale lock %s", _lock_file(name))


def clear_crumbs() -> None:
    """Remove `passwd.PID` and `passwd+` of killed tools; only while no tool runs."""
    crumb = re.compile(rf"({'|'.join(_DATABASES)})(\.[0-9]+|\+)")
    with _database_lock():
        for entry in list(os.scandir("/etc")):
            if crumb.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == 0:
                os.unlink(entry.path)
                log.info("removed %s, left by a tool that was killed", entry.path)


def _lock_file(database: str) -> str:
    return f"/etc/{database}.lock"


@contextlib.contextmanager
def _database_lock() -> Iterator[None]:
    """Hold /etc/.pwd.lock as lckpwdf(3) does: a POSIX record lock on the whole file, which ends with its process."""
    descriptor = os.open("/etc/.pwd.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_DEADLINE
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise HostError(
                        "another program is still changing the system's accounts (it holds /etc/.pwd.lock)",
                        "Wait until it is done, then run the command again.",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
