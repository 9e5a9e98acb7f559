"""What an account can leave on a host outside of every home: System V IPC, and files, in folders that others share too.

Sources: svipc(7), proc(5) "sysvipc", proc_pid_mountinfo(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
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

_MOST = 1000
"""Of folders, and of what is found in them."""
_OTHERS_WRITE = 0o022
_OWN_TREES = frozenset(("/proc", "/sys", "/dev"))

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


def shared_folders(skipped: Collection[str], patience: float) -> tuple[list[str], list[str]]:
    """Runs as a student, whose rights are those of any: the folders on the file system of / into which others than
    their owners may put something, and where the search did not come to its end. The skipped folders (the homes) are
    not entered, and no link is followed.
    """
    until, device = time.monotonic() + patience, os.lstat("/").st_dev
    found: list[str] = []
    # What belongs to other people comes last: a student can make more folders than anybody can search.
    roots, others = deque(["/"]), deque[str]()
    while roots or others:
        folder = (roots or others).popleft()
        if time.monotonic() > until or len(found) >= _MOST:
            return found, [f"{folder} and more: not searched to the end"]
        for path, facts in _folders_in(folder):
            if facts.st_dev == device and path not in skipped:
                (roots if facts.st_uid == 0 else others).append(path)
                if facts.st_mode & _OTHERS_WRITE and os.access(path, os.W_OK | os.X_OK):
                    found.append(path)
    return found, []


def own_in(folders: Iterable[str], patience: float) -> tuple[list[str], list[str]]:
    """Runs as the student: what is the student's in these folders, which come from the top down, and which of them
    could not be listed. Of what is below a folder of the student's only that folder is named.
    """
    until = time.monotonic() + patience
    found: dict[str, None] = {}
    unseen: list[str] = []
    for folder in folders:
        if any(str(above) in found for above in (Path(folder), *Path(folder).parents)):
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if time.monotonic() > until or len(found) >= _MOST:
                        return list(found), [*unseen, f"{folder} and more: not searched to the end"]
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        found[entry.path] = None
        except OSError:
            unseen.append(folder)
    return list(found), unseen


def _folders_in(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.path not in _OWN_TREES:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.path, entry.stat(follow_symlinks=False)
    except OSError:
        return  # closed to the student, or gone


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
