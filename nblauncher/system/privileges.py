"""Become another account, for good. The only module that calls setresuid.

Everything here acts on the calling process. `drop_to` belongs in a forked child: there is no way back from it.
Sources: credentials(7), prctl(2), setresuid(2), initgroups(3), capset(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import libc

_ARG_START = 48
"""Its number among the fields of /proc/PID/stat (proc(5))."""

_LEAST_TITLE = 8


def drop_to(account: Account) -> None:
    """Turn this process into the account's, supplementary groups included, and verify that root is gone.

    Also sets what the kernel resets or keeps over a change of uid: dumpable stays off (the account's other processes
    cannot ptrace us) and the umask is 077. A parent-death signal must be set again afterwards.

    Raises HostError without root, and when any id is not the account's afterwards; the caller must exit then.
    """
    if not is_root():
        raise HostError(f"only root can act as {account.username}", "Use sudo.")
    if account.uid == 0:
        raise HostError(f"refusing to become {account.username}: uid 0 is not a student or teacher to drop to")
    os.umask(0o077)
    os.initgroups(account.username, account.gid)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    _give_up_capabilities()
    # The kernel turns it off only while fs.suid_dumpable is 0, which an administrator may change.
    set_dumpable(False)
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise HostError(f"could not become {account.username}: the ids are still {os.getresuid()} {os.getresgid()}")
    if set(os.getgroups()) - {account.gid} != set(os.getgrouplist(account.username, account.gid)) - {account.gid}:
        raise HostError(f"could not become {account.username}: the supplementary groups are {os.getgroups()}")
    if _can_become_root():
        raise HostError(f"could not become {account.username}: root could be taken back")


def become_sweeper(uid: int, sweeper: Account) -> None:
    """Turn this process into one that may signal every process of `uid`, and that none of them can signal.

    kill(2) compares the sender's real and effective uid with the target's real and saved uid: ours are `sweeper`,
    `uid` and `sweeper`. For a forked child whose parent is root; HostError when it could still signal that parent,
    because `kill(-1)` would then end every process of the host.
    """
    if 0 in (uid, sweeper.uid) or uid == sweeper.uid:
        raise HostError(f"refusing to sweep uid {uid} as uid {sweeper.uid}")
    os.setgroups([])
    os.setresgid(sweeper.gid, sweeper.gid, sweeper.gid)
    os.setresuid(sweeper.uid, uid, sweeper.uid)
    _give_up_capabilities()
    set_dumpable(False)
    if os.getresuid() != (sweeper.uid, uid, sweeper.uid) or _can_become_root() or _can_signal(os.getppid()):
        raise HostError(f"could not give up root to sweep uid {uid}: the ids are {os.getresuid()}")


def is_root() -> bool:
    return os.geteuid() == 0


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL this process when its parent dies (PR_SET_PDEATHSIG); exits at once when the parent already did.

    A change of uid clears the setting, so call it again after `drop_to`. "Parent" is the thread that forked
    (prctl(2)): fork from a thread that outlives the child.
    """
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def die_with_namespace() -> None:
    """As `die_with_parent`, for the first process of a process namespace, which cannot see its parent (getppid: 0).

    The caller must find out by other means whether the parent had already ended.
    """
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_new_privileges() -> None:
    """no_new_privs: setuid programs (sudo, su, at) give this process and its children no privileges any more."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(is_dumpable: bool) -> None:
    """Whether the process's own user may ptrace it and read its /proc entries; off after every change of uid."""
    libc.prctl(libc.PR_SET_DUMPABLE, int(is_dumpable))


def adopt_orphans() -> None:
    """Become the child subreaper: descendants whose parent died become our children."""
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)


def disable_huge_pages(is_disabled: bool = True) -> None:
    """No transparent huge pages here and in children: a write to one copies 2 MB that forked processes shared."""
    libc.prctl(libc.PR_SET_THP_DISABLE, int(is_disabled))


def set_name(name: str) -> None:
    """Set the name that `ps -o comm` shows: 15 bytes."""
    text = ctypes.create_string_buffer(name.encode("ascii")[:15])
    libc.prctl(libc.PR_SET_NAME, ctypes.addressof(text))


def command_line() -> tuple[int, int]:
    """Where in this process's memory its command line begins and ends. 0 where it may not look (proc(5))."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[_ARG_START - 3]), int(fields[_ARG_START - 2])


def set_command_line(place: tuple[int, int], words: Sequence[str]) -> None:
    """Set the command line that `ps` shows, cut to the length of the old one.

    If its last byte is not zero, the kernel takes it for a text that ends at the first zero (fs/proc/base.c).
    """
    start, end = place
    if end - start < _LEAST_TITLE:
        return
    text = os.fsencode(" ".join(words))[: end - start - 2]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
    ctypes.memset(end - 1, ord("."), 1)


def _give_up_capabilities() -> None:
    """All sets. A change of uid empties the effective and permitted ones; containers start root with inheritable ones,
    which a program with file capabilities would turn into permitted ones (capabilities(7)).
    """
    libc.capset_nothing()


def _can_become_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def _can_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    return True
