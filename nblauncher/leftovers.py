"""What an account can leave on a host outside of its home: System V IPC, files of its own; and where nobody looked.

Sources: svipc(7), proc(5) "sysvipc", proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from nblauncher import deletion
from nblauncher.errors import HostError
from nblauncher.processes import ENVIRONMENT

_TABLES = {"shm": "shared memory", "sem": "semaphores", "msg": "message queue"}
_LOOKING = 300.0
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
        for number in _numbers(table, os.geteuid()):
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


def ipc_of(uid: int) -> tuple[str, ...]:
    """System V IPC of the uid, in words; looks only."""
    return tuple(f"{words} {number}" for table, words in _TABLES.items() for number in _numbers(table, uid))


def files_of(uid: int, folders: Iterable[Path]) -> tuple[str, ...]:
    """What of the uid's lies in these folders, on their file systems; looks only, as root, and opens no file."""
    places = [str(folder.resolve()) for folder in folders if folder.is_dir()]
    if not places:
        return ()
    words = ("-xdev", "-mindepth", "1", "-uid", str(uid), "-print0", "-prune")
    # What others delete meanwhile makes find fail, which is no matter.
    command = ["find", *places, *words]
    try:
        done = subprocess.run(command, check=False, capture_output=True, env=ENVIRONMENT, timeout=_LOOKING, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the files of uid {uid} cannot be looked for in {', '.join(places)}: {error}") from error
    return tuple(sorted({os.fsdecode(path) for path in done.stdout.split(b"\0") if path}))


def delete_files(folders: Iterable[Path], *, patience: float) -> list[str]:
    """Runs as the account: delete what is the caller's in these folders, as far as it may; what is left, in words."""
    left: list[str] = []
    for folder in folders:
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        deleted = deletion.delete_below(root, lambda status: status.st_uid == os.geteuid(), patience=patience)
        left += [f"{folder}/{path}" for path in deleted.left]
        os.close(root)
    return left


def _numbers(table: str, uid: int) -> list[int]:
    """The numbers of what belongs to the uid."""
    try:
        head, *lines = Path("/proc/sysvipc", table).read_text().splitlines()
    except OSError:
        return []
    columns = head.split()
    which, number = columns.index("uid"), columns.index(f"{'msq' if table == 'msg' else table}id")
    return [int(row[number]) for row in map(str.split, lines) if int(row[which]) == uid]
