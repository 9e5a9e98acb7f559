"""Students' homes, seen from root: every function here forks children that are the student (and the teacher).

Each call is for one student, keeps nothing between calls, and may be made from a forked process of root's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher import deletion, files, gathering, leftovers, receiving, store, workers
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account, Exclusion, Work
from nblauncher.scope import Scope
from nblauncher.settings import RetrieveSettings
from nblauncher.store import Staging

TEMPORARY = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "/var/crash")))  # noqa: S108
"""Folders that everybody may write to: where a student's leftovers are looked for."""

MAIL = Path("/var/mail")
TEMPORARY_PATIENCE = 60.0
"""Seconds for one of these folders, where others can make files faster than we look at them."""

SHARED_PATIENCE = 60.0
"""Seconds for finding, once in a removal, the folders that students share."""
LEFT_PATIENCE = 10.0
"""Seconds for one student's files in them."""

_PIPE_BYTES = 1 << 20
_STALL = 60.0
_LONGEST = 6 * 3600.0
_LAST_WORDS = 10.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What one student's folder in the staging amounts to. All exclusions are in the manifest, the first 200 here."""

    work: Work
    digest: str
    """Of the paths, sizes and sha256 of everything stored; two equal digests are equal work."""
    listing: str
    """Of everything the student's child met; equal to `listing(...)` as long as nothing in the home changes."""
    changed: int = 0
    """Files that the student made or changed since `since`."""
    gone: int = 0
    """Files of the last retrieval that are not in this one."""
    since: str = ""
    """The folder of that last retrieval; empty: since the material was handed out."""


def collect(
    account: Account,
    owner: Account,
    staging: Staging,
    scope: Scope,
    limits: RetrieveSettings,
    *,
    previous: str = "",
    stall: float = _STALL,
    longest: float = _LONGEST,
) -> Collected:
    """Bring one student's work into the staging folder.

    `previous` is the published folder with this student's last retrieval; what still stands there is hard-linked.
    `stall` and `longest` are seconds without a sign of life and in all. HostError when the copy failed; nothing of
    the student's is in the staging then. What is left out is in `work.exclusions`, which is no error.
    """
    order = receiving.Order(
        staging.target,
        staging.name,
        account.username,
        scope,
        limits,
        staging.time.isoformat(timespec="seconds"),
        previous=previous,
    )
    try:
        answer, listed = _stream(_student(account), owner, order, stall, longest)
    except HostError as error:
        store.discard_student(owner, staging.target, staging.name, account.username)
        raise HostError(f"the work of {account.username} was not retrieved: {error.problem}", error.hint) from error
    exclusions = tuple(Exclusion(*row) for row in answer["exclusions"])
    return Collected(
        Work(answer["files"], answer["bytes"], exclusions),
        answer["digest"],
        listed,
        answer["changed"],
        answer["gone"],
        previous if answer["has_previous"] else "",
    )


def listing(account: Account, scope: Scope, limits: RetrieveSettings, *, longest: float = _LONGEST) -> str:
    """The home's listing once more, for comparison with `Collected.listing` before anything is deleted. HostError."""
    return str(workers.run_as(_student(account), gathering.listing, account.home, scope, limits, timeout=longest))


def empty(account: Account, *, longest: float = _LONGEST) -> tuple[str, ...]:
    """Delete, as the student, everything below the home; what the student cannot delete is listed with the reason.

    The caller has retrieved and verified the home, and no process of the student's is alive. HostError.
    """
    return tuple(workers.run_as(_student(account), _empty, account.home, timeout=longest))


def has_folder(account: Account, path: str, *, longest: float = 10.0) -> bool:
    """Whether there is something at that path of the home. Looked at as the student, who may have put it there."""
    return bool(workers.run_as(_student(account), _has_folder, account.home, path, timeout=longest))


def used(account: Account, *, longest: float) -> int:
    """Bytes that the student's files in the home take on its file system, counted as the student. HostError."""
    return int(workers.run_as(_student(account), _used, account.home, longest, timeout=longest + _LAST_WORDS))


def delete_temporary(
    account: Account, folders: Sequence[Path] = TEMPORARY, mail: Path = MAIL, *, longest: float = 600.0
) -> tuple[str, ...]:
    """Delete, as the student, what the uid owns in these folders, its mail and IPC; lists what is gone or could not go.

    Others' files are in the way there: a folder is searched for TEMPORARY_PATIENCE at most. The uid is never given to
    somebody else, so what is left is nobody's.
    """
    spool = mail / account.username
    return tuple(workers.run_as(_student(account), _delete_temporary, tuple(folders), spool, timeout=longest))


def shared_folders(account: Account, skipped: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Where the student may have put something outside of the homes; see leftovers. HostError."""
    words = frozenset(map(str, (*skipped, *TEMPORARY)))
    found, unseen = workers.run_as(
        _student(account), leftovers.shared_folders, words, SHARED_PATIENCE, timeout=SHARED_PATIENCE + _LAST_WORDS
    )
    return found, unseen


def left_in(account: Account, folders: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is the student's in such folders, and which of them nobody could list; see leftovers. HostError."""
    found, unseen = workers.run_as(
        _student(account), leftovers.own_in, tuple(folders), LEFT_PATIENCE, timeout=LEFT_PATIENCE + _LAST_WORDS
    )
    return found, unseen


def _student(account: Account) -> Account:
    if account.uid == 0:
        raise RefusedError(f"{account.username} has uid 0; a student's home is never handled by root")
    return account


def _stream(account: Account, owner: Account, order: receiving.Order, stall: float, longest: float) -> tuple[Any, str]:
    """Both children at work, joined by two pipes that root itself never reads."""
    stream, output = os.pipe()
    known, tell = os.pipe()
    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        reader = workers.start(
            account,
            gathering.gather,
            account.home,
            order.scope,
            order.limits,
            output,
            known,
            longest,
            keep={output, known},
        )
        try:
            writer = workers.start(owner, receiving.receive, order, stream, tell, stall, keep={stream, tell})
        except BaseException:
            reader.stop()
            raise
    finally:
        for descriptor in (stream, output, known, tell):
            os.close(descriptor)
    try:
        answer = writer.result(longest)
        return answer, str(reader.result(_LAST_WORDS))
    except HostError as error:
        if error.problem == receiving.STOPPED:
            # The student's child ended first and knows why: an unreadable home, or somebody killed it.
            reader.result(_LAST_WORDS)
        raise
    finally:
        writer.stop()
        reader.stop()


def _empty(home: Path) -> list[str]:
    """Runs as the student."""
    status = os.stat(home, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise HostError(f"the home {home} is not a folder of the student's")
    os.chmod(home, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
    return list(deletion.delete_below(files.open_folder(home)).left)


def _delete_temporary(folders: tuple[Path, ...], spool: Path) -> list[str]:
    """Runs as the student. Others' files stay; others' folders are searched as far as the student may."""
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
    """Runs as the student. What cannot be looked at counts nothing; other file systems neither."""
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
    """Empty the mail spool, and delete it where the folder lets a student do so (/var/mail is the mail group's)."""
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
