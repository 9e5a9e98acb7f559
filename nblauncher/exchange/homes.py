"""Students' homes, seen from root: every function here forks children that are the student (and the teacher).

Each call is for one student, keeps no state, and may be made from root's forked processes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.exchange.students import student
from nblauncher.model import Account
from nblauncher.system import deletion, files, leftovers, workers

TEMPORARY = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "/var/crash")))  # noqa: S108
"""World-writable folders, where a student's leftovers are looked for."""

MAIL = Path("/var/mail")
TEMPORARY_PATIENCE = 60.0
"""Seconds for one of these folders: others can make files there faster than we look at them."""

SHARED_PATIENCE = 60.0
"""Seconds for finding, once in a removal, the folders that students share."""
LEFT_PATIENCE = 20.0
"""Seconds for the students' files in them."""

_LONGEST = 6 * 3600.0
_LAST_WORDS = 10.0


def empty(account: Account, *, longest: float = _LONGEST) -> tuple[str, ...]:
    """Delete, as the student, everything below the home; lists what the student cannot delete, with the reason.

    The caller has retrieved and verified the home, and the student has no process left. HostError.
    """
    return tuple(workers.run_as(student(account), _empty, account.home, timeout=longest))


def has_folder(account: Account, path: str, *, longest: float = 10.0) -> bool:
    """Whether that path exists in the home. Looked up as the student, because it may be the student's symlink."""
    return bool(workers.run_as(student(account), _has_folder, account.home, path, timeout=longest))


def used(account: Account, *, longest: float) -> int:
    """Bytes that the student's files in the home take on its file system, counted as the student. HostError."""
    return int(workers.run_as(student(account), _used, account.home, longest, timeout=longest + _LAST_WORDS))


def delete_temporary(
    account: Account, folders: Sequence[Path] = TEMPORARY, mail: Path = MAIL, *, longest: float = 600.0
) -> tuple[str, ...]:
    """Delete, as the student, what the uid owns in these folders, its mail and IPC; lists what was deleted or not.

    Other users' files slow the search: a folder is searched for TEMPORARY_PATIENCE at most. The uid is never used
    again, so no account owns what is left.
    """
    spool = mail / account.username
    return tuple(workers.run_as(student(account), _delete_temporary, tuple(folders), spool, timeout=longest))


def clear(account: Account, folders: Sequence[Path] = TEMPORARY, mail: Path = MAIL) -> tuple[list[str], list[str]]:
    """`empty` and `delete_temporary` in one child: what is left in the home, and what was deleted elsewhere or not."""
    spool = mail / account.username
    left, elsewhere = workers.run_as(
        student(account), _clear, account.home, tuple(folders), spool, timeout=_LONGEST + TEMPORARY_PATIENCE * 10
    )
    return left, elsewhere


def begin_search(account: Account, uids: Sequence[int], skipped: Sequence[Path]) -> workers.Worker:
    """Look, as this student, for what these uids left outside of the homes. `found_outside` takes the answer; until
    then the student must not be swept. HostError.
    """
    words = frozenset(map(str, (*skipped, *TEMPORARY)))
    return workers.start(student(account), _search, words, tuple(uids))


def begin_search_of_temporary(account: Account, uids: Sequence[int]) -> workers.Worker:
    """Look, as this student, for which of these uids own something in the temporary folders. As `begin_search`."""
    return workers.start(student(account), _search_temporary, tuple(map(str, TEMPORARY)), frozenset(uids))


def owners_in_temporary(search: workers.Worker) -> frozenset[int] | None:
    """The uids that own something there; None: each must look. HostError."""
    found, is_certain = search.result(TEMPORARY_PATIENCE + _LAST_WORDS)
    return frozenset(found) if is_certain else None


def _search_temporary(folders: tuple[str, ...], uids: frozenset[int]) -> tuple[list[int], bool]:
    """Runs as the student."""
    return leftovers.owners_below(folders, uids, TEMPORARY_PATIENCE)


def found_outside(search: workers.Worker) -> tuple[dict[int, list[str]], list[str]]:
    """What each uid left, and the folders that were not searched; see leftovers. HostError."""
    found, unseen = search.result(SHARED_PATIENCE + LEFT_PATIENCE + _LAST_WORDS)
    return {int(uid): paths for uid, paths in found.items()}, unseen


def _search(skipped: frozenset[str], uids: tuple[int, ...]) -> tuple[dict[int, list[str]], list[str]]:
    """Runs as the student."""
    folders, unsearched = leftovers.shared_folders(skipped, SHARED_PATIENCE)
    found, unseen = leftovers.left_in(folders, uids, LEFT_PATIENCE)
    return found, [*unsearched, *unseen]


def _clear(home: Path, folders: tuple[Path, ...], spool: Path) -> tuple[list[str], list[str]]:
    """Runs as the student."""
    elsewhere = _delete_temporary(folders, spool)
    return _empty(home), elsewhere


def _empty(home: Path) -> list[str]:
    """Runs as the student."""
    status = os.stat(home, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise HostError(f"the home {home} is not the student's folder")
    os.chmod(home, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
    return list(deletion.delete_below(files.open_folder(home)).left)


def _delete_temporary(folders: tuple[Path, ...], spool: Path) -> list[str]:
    """Runs as the student. Other users' files stay; their folders are searched as far as the student may."""
    lines: list[str] = []
    for folder in folders:
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        deleted = deletion.delete_below(root, _is_own, patience=TEMPORARY_PATIENCE)
        lines += [f"{folder}/{path}" for path in deleted.gone]
        lines += [f"not deleted: {folder}/{path}" for path in deleted.left]
        os.close(root)
    return lines + _delete_mail(spool) + leftovers.delete_ipc()


def _has_folder(home: Path, path: str) -> bool:
    """Runs as the student."""
    return os.path.lexists(home / path)


def _used(home: Path, longest: float) -> int:
    """Runs as the student. What cannot be looked at, and other file systems, do not count."""
    until, device, seen, total = time.monotonic() + longest, os.lstat(home).st_dev, set(), 0
    for folder, names, plain in os.walk(home):
        for name in (*names, *plain):
            with contextlib.suppress(OSError):
                facts = os.lstat(os.path.join(folder, name))
                if facts.st_dev == device and facts.st_ino not in seen:
                    total += facts.st_blocks * 512
                    if facts.st_nlink > 1:
                        seen.add(facts.st_ino)
        names[:] = [name for name in names if _is_on(device, os.path.join(folder, name))]
        if time.monotonic() > until:
            raise HostError(f"the home holds more than can be counted in {longest:.0f} s")
    return total


def _is_on(device: int, folder: str) -> bool:
    try:
        return os.lstat(folder).st_dev == device
    except OSError:
        return False


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid()


def _delete_mail(spool: Path) -> list[str]:
    """Empty the mail spool, and delete it if the folder's mode allows (/var/mail belongs to the mail group)."""
    try:
        folder = os.open(spool.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.stat(spool.name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or not _is_own(status):
            return []
    except OSError:
        return []
    try:
        os.unlink(spool.name, dir_fd=folder)
    except PermissionError:
        if status.st_size == 0:
            return []
        descriptor = os.open(spool.name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        os.close(descriptor)
    return [str(spool)]
