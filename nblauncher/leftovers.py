"""What a student can leave on a host outside of every folder: System V IPC; and where nobody looked.

Sources: svipc(7), proc(5) "sysvipc", proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_TABLES = {"shm": "shared memory", "sem": "semaphores", "msg": "message queue"}
_REMOVE = 0
"""IPC_RMID."""

_NO_FILES = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
        *("fusectl", "hugetlbfs", "iso9660", "mqueue", "nsfs", "overlay", "proc", "pstore", "ramfs", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "squashfs", "sysfs", "tmpfs", "tracefs"),
    )
)
"""Kinds of file systems that keep nothing over a reboot, or that nobody writes to."""

_libc = ctypes.CDLL(None, use_errno=True)


def delete_ipc() -> list[str]:
    """Runs as the student: delete whatever System V IPC is the caller's; what it was, in words."""
    found = []
    for table, words in _TABLES.items():
        for number in _own(table):
            arguments = (number, 0, _REMOVE, None) if table == "sem" else (number, _REMOVE, None)
            if getattr(_libc, f"{table}ctl")(*arguments) == 0:
                found.append(f"{words} {number}")
    return found


def unsearched(searched: Iterable[Path]) -> tuple[str, ...]:
    """Where file systems are mounted, other than those of these folders, that may hold somebody's files; looks only."""
    known = {os.stat(folder).st_dev for folder in searched if folder.is_dir()}
    found: dict[int, str] = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields, _, about = line.partition(" - ")
        words = fields.split()
        kind, _source, options = about.split()[:3]
        major, _, minor = words[2].partition(":")
        device = os.makedev(int(major), int(minor))
        is_writable = "rw" in words[5].split(",") and "rw" in options.split(",")
        if kind not in _NO_FILES and is_writable and device not in known:
            found.setdefault(device, words[4])
    return tuple(sorted(found.values()))


def _own(table: str) -> list[int]:
    """The numbers of what belongs to the caller."""
    try:
        head, *lines = Path("/proc/sysvipc", table).read_text().splitlines()
    except OSError:
        return []
    columns = head.split()
    which, number = columns.index("uid"), columns.index(f"{'msq' if table == 'msg' else table}id")
    return [int(row[number]) for row in map(str.split, lines) if int(row[which]) == os.geteuid()]
