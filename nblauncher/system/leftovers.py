"""What an account can leave on a host outside of homes: System V IPC, and files in folders that accounts share.

Sources: svipc(7), proc(5) "sysvipc".
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.system import deletion, libc
from nblauncher.system.mounts import mounts
from nblauncher.system.processes import ENVIRONMENT

_TABLES = {"shm": "shared memory", "sem": "semaphores", "msg": "message queue"}
_LOOKING = 300.0

_NO_FILES = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
        *("fusectl", "hugetlbfs", "iso9660", "mqueue", "nsfs", "overlay", "proc", "pstore", "ramfs", "rpc_pipefs"),
        *("securityfs", "selinuxfs", "squashfs", "sysfs", "tmpfs", "tracefs"),
    )
)
"""Kinds of file systems that keep nothing over a reboot, or hold no students' files."""

_MOST = 1000
"""Folders in which accounts other than the owner may create files."""
_MOST_FOUND, _LEAST_EACH, _LONGEST_PATH = 2000, 20, 300
"""Entries found in them: for all students, for each one at least, and characters of a path."""
_OTHERS_WRITE = 0o022
_OTHERS_LIST = 0o044
"""With none of these bits no account but the owner can list a folder; an ACL would show in those of the group."""
_OWN_TREES = frozenset(("/proc", "/sys", "/dev"))


def delete_ipc() -> list[str]:
    """Runs as the student: delete the caller's System V IPC. Returns a description of each object."""
    found = []
    for table, words in _TABLES.items():
        for number in _numbers(table, os.geteuid()):
            with contextlib.suppress(OSError):
                libc.remove_ipc(table, number)
                found.append(f"{words} {number}")
    return found


def unsearched(searched: Iterable[Path]) -> tuple[str, ...]:
    """Mount points of file systems that may hold accounts' files, other than those of these folders; looks only."""
    known = {os.stat(folder).st_dev for folder in searched if folder.is_dir()}
    found: dict[int, str] = {}
    for mount in mounts():
        if mount.kind not in _NO_FILES and mount.is_writable and mount.device not in known:
            found.setdefault(mount.device, mount.point)
    return tuple(sorted(found.values()))


def shared_folders(skipped: Collection[str], patience: float) -> tuple[list[str], list[str]]:
    """Runs as a student, with the rights of any: the folders on the file system of / in which other accounts
    than the owner may create files, and where the search was cut short. The skipped folders (the homes) are not
    entered, and no link is followed.
    """
    until, device = time.monotonic() + patience, os.lstat("/").st_dev
    found: list[str] = []
    # Folders of accounts other than root come last: a student can make more of them than can be searched.
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


def owners_below(folders: Iterable[str], uids: Collection[int], patience: float) -> tuple[list[int], bool]:
    """Runs as one of the students: which of these uids own something in these folders, and whether that is certain.

    It is not where a folder is closed to this student and may be open to the next one, and when the time is over.
    """
    until, is_certain = time.monotonic() + patience, True
    found: set[int] = set()
    for top in folders:
        try:
            device = os.lstat(top).st_dev
        except OSError:
            continue
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        facts = entry.stat(follow_symlinks=False)
                        if facts.st_uid in uids:
                            found.add(facts.st_uid)
                        if stat.S_ISDIR(facts.st_mode) and facts.st_dev == device and facts.st_mode & _OTHERS_LIST:
                            waiting.append(entry.path)
            except FileNotFoundError:
                continue
            except OSError:
                is_certain = False
            if time.monotonic() > until:
                return sorted(found), False
    return sorted(found), is_certain


def left_in(folders: Iterable[str], uids: Collection[int], patience: float) -> tuple[dict[int, list[str]], list[str]]:
    """Runs as one of the students: what each of these uids has in these folders, which come from the top down, and the
    folders that could not be listed. Below a folder of a uid's only that folder is listed for it. No student uses up
    the share of another one.
    """
    until = time.monotonic() + patience
    most = max(_LEAST_EACH, _MOST_FOUND // max(1, len(uids)))
    found: dict[int, dict[str, None]] = {uid: {} for uid in uids}
    unseen: dict[str, None] = {}
    for folder in folders:
        above = [folder, *map(str, Path(folder).parents)]
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if time.monotonic() > until:
                        return _lists(found), [*unseen, f"{folder} and more: not searched to the end"]
                    theirs = found.get(entry.stat(follow_symlinks=False).st_uid)
                    if theirs is None or any(path in theirs for path in above):
                        continue
                    if len(theirs) < most:
                        theirs[entry.path[:_LONGEST_PATH]] = None
                    else:
                        unseen[f"{folder} and more: not searched to the end"] = None
        except OSError:
            unseen[folder] = None
    return _lists(found), list(unseen)


def _lists(found: Mapping[int, Iterable[str]]) -> dict[int, list[str]]:
    return {uid: list(paths) for uid, paths in found.items()}


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
    """A description of each System V object of the uid; looks only."""
    return tuple(f"{words} {number}" for table, words in _TABLES.items() for number in _numbers(table, uid))


def files_of(uid: int, folders: Iterable[Path]) -> tuple[str, ...]:
    """The uid's files in these folders, on their file systems; looks only, as root, and opens no file."""
    places = [str(folder.resolve()) for folder in folders if folder.is_dir()]
    if not places:
        return ()
    words = ("-xdev", "-mindepth", "1", "-uid", str(uid), "-print0", "-prune")
    # find fails when another process deletes a file meanwhile, which does not matter.
    command = ["find", *places, *words]
    try:
        done = subprocess.run(command, check=False, capture_output=True, env=ENVIRONMENT, timeout=_LOOKING, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the files of uid {uid} cannot be looked for in {', '.join(places)}: {error}") from error
    return tuple(sorted({os.fsdecode(path) for path in done.stdout.split(b"\0") if path}))


def delete_files(folders: Iterable[Path], *, patience: float) -> list[str]:
    """Runs as the account: delete the caller's files in these folders. Returns what is left, with reasons."""
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
    """The numbers of the uid's objects."""
    try:
        head, *lines = Path("/proc/sysvipc", table).read_text().splitlines()
    except OSError:
        return []
    columns = head.split()
    which, number = columns.index("uid"), columns.index(f"{'msq' if table == 'msg' else table}id")
    return [int(row[number]) for row in map(str.split, lines) if int(row[which]) == uid]
