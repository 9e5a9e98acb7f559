"""Calls of the C library that `os` does not have, each as a function that raises OSError; every system call number.

Needs the standard library only. Two programs that run as the student load nothing of ours and call prctl(2) and
ptrace(2) themselves: `server/kernel.py` and `preflight/attacks.py`.
Sources: mount(2), umount2(2), unshare(2), setns(2), openat2(2), rename(2), syncfs(2), quotactl(2), prctl(2), capset(2),
pidfd_getfd(2), shmctl(2), semctl(2), msgctl(2).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_SYS_OPENAT2, _SYS_PIDFD_GETFD = 437, 438
"""The same on every Linux architecture (since 5.6)."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC = 1024, 2048, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2

Q_GETQUOTA, Q_SETQUOTA = 0x800007, 0x800008
_USRQUOTA = 0

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 4, 15, 36
PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 38, 41

_CAPABILITY_VERSION_3 = 0x20080522
_IPC_RMID = 0

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def call(name: str, *arguments: object, about: str = "") -> int:
    """Call a function that returns -1 and sets errno when it fails: OSError then, with `about` as its file name."""
    result = int(getattr(_libc, name)(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about or None)
    return result


def mount(source: str, target: Path | str | bytes, kind: str, flags: int, options: str = "") -> None:
    call(
        "mount",
        source.encode(),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
        about=os.fsdecode(target),
    )


def umount2(target: Path, flags: int) -> None:
    call("umount2", os.fsencode(target), flags, about=str(target))


def unshare(flags: int) -> None:
    call("unshare", flags)


def setns(namespace: int, kind: int) -> None:
    call("setns", namespace, kind)


def openat2(folder: int, name: str, flags: int, resolve: int) -> int:
    how = _How(flags, 0, resolve)
    arguments = (folder, os.fsencode(name), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    return call("syscall", ctypes.c_long(_SYS_OPENAT2), *arguments, about=name)


def renameat2(folder: int, old: str, new: str, flags: int) -> None:
    """Both names are in the same folder."""
    arguments = (folder, os.fsencode(old), folder, os.fsencode(new), ctypes.c_uint(flags))
    call("renameat2", *arguments, about=new)


def syncfs(descriptor: int) -> None:
    """Write the file system of this open file to its disk: it reports errors since Linux 5.8."""
    call("syncfs", descriptor)


def quotactl(command: int, device: str, uid: int, record: ctypes.Array[ctypes.c_char]) -> None:
    """For a user's quota; `record` is a struct if_dqblk."""
    call("quotactl", ctypes.c_int(command << 8 | _USRQUOTA), device.encode(), uid, record, about=device)


def prctl(option: int, argument: int) -> None:
    call("prctl", option, ctypes.c_ulong(argument), 0, 0, 0, about=f"prctl({option})")


def capset_nothing() -> None:
    """Empty this thread's effective, permitted and inheritable capabilities."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)(), about="capset")


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """A duplicate (close-on-exec) of another process's descriptor."""
    arguments = (ctypes.c_int(pidfd), ctypes.c_int(descriptor), ctypes.c_uint(0))
    return call("syscall", ctypes.c_long(_SYS_PIDFD_GETFD), *arguments, about="pidfd_getfd")


def remove_ipc(table: str, number: int) -> None:
    """Remove a System V object; `table` is "shm", "sem" or "msg"."""
    arguments = (number, 0, _IPC_RMID, None) if table == "sem" else (number, _IPC_RMID, None)
    call(f"{table}ctl", *arguments)
