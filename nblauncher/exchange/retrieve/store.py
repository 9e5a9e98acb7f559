"""The teacher's store of retrievals: `TARGET/<time>/<username>/`, written under a staging name and renamed whole.

A folder that does not hold all work of all students says so after the time: `<time>-only-ada`, `<time>-ps1`.
Every function forks a child that is the teacher and does the work there; the caller may be root.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import stat
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange.retrieve import manifest
from nblauncher.exchange.retrieve.tree import Tree, sync
from nblauncher.model import Account
from nblauncher.system import deletion, files, workers

_STAGING = re.compile(r"\.\d{4}-\d\d-\d\dT\d{6}[+-]\d{4}\.partial-[0-9a-f]{16}")
_FULL = re.compile(r"\d{4}-\d\d-\d\dT\d{6}[+-]\d{4}(?:-\d+)?")
_AMBIGUOUS = re.compile(r"\d+|(?:only|removed|deadline|folder)(?:-.*)?")
_LONGEST_NAME = 40
_LATEST = "latest"
_NEW_LATEST = re.compile(r"\.latest-[0-9a-f]{16}")
_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Staging:
    """A folder that is not published yet. `lock` protects it from being cleaned away while this process lives."""

    target: Path
    name: str
    time: datetime
    lock: int


def open_staging(owner: Account, target: Path, time: datetime) -> Staging:
    """Make TARGET where it is missing, delete what crashed runs left in it, and begin a retrieval.

    `time` is aware, in the host's zone. RefusedError when TARGET is not the teacher's alone; HostError otherwise.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        name = workers.run_as(owner, _open, target, time, theirs.fileno(), keep={theirs.fileno()}, timeout=_TIMEOUT)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    return Staging(target, name, time, descriptors[0])


def publish(owner: Account, staging: Staging, part: str = "") -> str:
    """Write everything to disk and rename the folder to its time and `part`, which says what part of the work it is
    (`-2`, `-3` when taken). Without a `part` it is a full retrieval, and `latest` points there.

    Returns the name. The staging is closed.
    """
    wanted = "-".join(filter(None, (_stamp(staging.time), part)))
    name = workers.run_as(owner, _publish, staging.target, staging.name, wanted, not part, timeout=_TIMEOUT)
    os.close(staging.lock)
    return str(name)


def lead_to(owner: Account, target: Path, folder: str) -> None:
    """Point `latest` at an earlier full retrieval, because no work has changed since."""
    workers.run_as(owner, _lead_to, target, folder, timeout=_TIMEOUT)


def is_full(folder: str) -> bool:
    """Whether a published folder holds all students' work, by its name."""
    return _FULL.fullmatch(folder) is not None


def students_part(usernames: Collection[str], members: Collection[str]) -> str:
    """For the name of a folder with only these members of a course: `only-ada`, `only-3-students`, or empty."""
    if set(members) <= set(usernames):
        return ""
    return f"only-{next(iter(usernames))}" if len(usernames) == 1 else f"only-{len(usernames)}-students"


def folder_part(folder: str) -> str:
    """For the name of a folder with only this folder of the material, in characters that every system accepts."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode("ascii")
    name = re.sub(r"[^A-Za-z0-9._]+", "-", plain)[:_LONGEST_NAME].strip("-.")
    return f"folder-{name}".strip("-") if not name or _AMBIGUOUS.fullmatch(name) else name


def discard(owner: Account, staging: Staging) -> None:
    """Delete the whole staging folder and close it."""
    workers.run_as(owner, _discard, staging.target, staging.name, timeout=_TIMEOUT)
    os.close(staging.lock)


def discard_student(owner: Account, target: Path, staging: str, username: str) -> None:
    """Delete what has arrived from one student after the copy failed."""
    workers.run_as(owner, _discard, target, f"{staging}/{username}", timeout=_TIMEOUT)


def standing(owner: Account, target: Path, folder: str, usernames: Iterable[str]) -> frozenset[str]:
    """Those of the students that the published folder still holds, with every file's size and time unchanged."""
    wanted = list(usernames)
    return frozenset(workers.run_as(owner, _standing, target, folder, wanted, timeout=_TIMEOUT))


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H%M%S%z")


def _open(target: Path, time: datetime, channel: int) -> str:
    folder = _open_target(target)
    _clean(folder)
    while True:
        name = f".{_stamp(time)}.partial-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=folder)
        descriptor = files.open_folder(name, folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between mkdir and flock another run may have deleted it as abandoned.
        if os.fstat(descriptor).st_nlink > 0:
            break
        os.close(descriptor)
    with socket.socket(fileno=channel) as connection:
        socket.send_fds(connection, [b"1"], [descriptor])
    return name


def _open_target(target: Path) -> int:
    try:
        os.makedirs(target, 0o700, exist_ok=True)
        status = os.stat(target)
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        raise HostError(f"the store {target} cannot be used: {words}", "Change retrieve.target.") from error
    if status.st_uid != os.geteuid():
        raise RefusedError(f"{target} belongs to uid {status.st_uid}, not to the teacher", "Change retrieve.target.")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise RefusedError(f"{target} can be written by other accounts than the teacher's", f"chmod go-w {target}")
    folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        latest = os.stat(_LATEST, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return folder
    if not stat.S_ISLNK(latest.st_mode):
        raise RefusedError(f"{target}/{_LATEST} is not the link that nblauncher makes there", "Move it away.")
    return folder


def _clean(folder: int) -> None:
    """Delete the staging folders of dead runs: their lock is free."""
    for name in os.listdir(folder):
        if _NEW_LATEST.fullmatch(name) and stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
        elif _STAGING.fullmatch(name):
            _delete_abandoned(folder, name)


def _delete_abandoned(folder: int, name: str) -> None:
    try:
        descriptor = files.open_folder(name, folder)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_uid == os.geteuid():
            deletion.delete_below(descriptor)
            os.rmdir(name, dir_fd=folder)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _publish(target: Path, staging: str, wanted: str, is_latest: bool) -> str:
    folder = _open_target(target)
    sync(folder)
    name = _rename(folder, staging, wanted)
    os.fsync(folder)
    if is_latest:
        _link_latest(folder, name)
    return name


def _lead_to(target: Path, name: str) -> None:
    folder = _open_target(target)
    if not os.path.lexists(target / _LATEST) or os.readlink(_LATEST, dir_fd=folder) != name:
        _link_latest(folder, name)


def _link_latest(folder: int, name: str) -> None:
    new_link = f".latest-{secrets.token_hex(8)}"
    os.symlink(name, new_link, dir_fd=folder)
    os.rename(new_link, _LATEST, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _rename(folder: int, staging: str, wanted: str) -> str:
    for number in range(1, 1000):
        name = wanted if number == 1 else f"{wanted}-{number}"
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(staging, name, src_dir_fd=folder, dst_dir_fd=folder)
            return name
    raise HostError(f"there are 999 retrievals {wanted} already")


def _discard(target: Path, path: str) -> None:
    above, _, name = path.rpartition("/")
    folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        holder = files.open_below(folder, above)
        descriptor = files.open_folder(name, holder)
    except FileNotFoundError:
        return
    left = deletion.delete_below(descriptor).left
    if left:
        raise HostError(f"{target}/{path} could not be deleted: {left[0]}")
    os.rmdir(name, dir_fd=holder)


def _standing(target: Path, folder: str, usernames: list[str]) -> list[str]:
    try:
        root = files.open_below(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), folder)
    except OSError:
        return []
    return [username for username in usernames if _is_unchanged(root, username)]


def _is_unchanged(root: int, username: str) -> bool:
    try:
        tree = Tree(files.open_folder(username, root))
    except OSError:
        return False
    try:
        records = manifest.read(tree)
        return records is not None and all(manifest.is_unchanged(tree, record, is_read=False) for record in records)
    finally:
        tree.close()
