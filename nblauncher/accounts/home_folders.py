"""Check and delete homes from the outside: place, owner, mode. Root never reads their content.

The only exception is a home that `create` did not finish: no student could log in to it yet.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account
from nblauncher.system import system_folders
from nblauncher.system.mounts import mounts
from nblauncher.system.processes import run

SKELETON = Path("/etc/skel")
_REMOVAL_TIMEOUT = 3600.0
_MOST_STEPS = 500


def refuse_unsafe_root(home_root: Path) -> None:
    """RefusedError unless only root can write to the folder of the homes, or replace it, and no program takes its
    content for a part of the system.
    """
    if why := system_folders.why_no_homes(home_root):
        raise RefusedError(f"homes cannot be made in {home_root}: {why}", "Choose another accounts.home.")
    for place in _way_to(home_root):
        try:
            status = place.lstat()
        except FileNotFoundError:
            raise RefusedError(
                f"accounts.home {home_root} does not exist", f"Make it: mkdir -m 755 {os.path.realpath(home_root)}"
            ) from None
        is_roots_alone = stat.S_ISLNK(status.st_mode) or (stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022)
        if not is_roots_alone or status.st_uid != 0:
            raise RefusedError(
                f"homes cannot be made in {home_root}: {place} is not a folder that only root can write to"
            )


def _way_to(folder: Path) -> Iterator[Path]:
    """Every folder and every link that leads there: an account that can replace one decides where homes are made."""
    left, place = list(folder.parts[1:]), Path("/")
    for _ in range(_MOST_STEPS):
        yield place
        if not left:
            return
        below = place / left.pop(0)
        if below.is_symlink():
            yield below
            target = Path(os.readlink(below))
            left[:0] = target.parts[1:] if target.is_absolute() else target.parts
            place = Path("/") if target.is_absolute() else place
        else:
            place = place.parent if below.name == ".." else below
    raise RefusedError(f"homes cannot be made in {folder}: its links form a loop")


def refuse_existing(account: Account) -> None:
    """RefusedError when the home's name is taken: useradd would give the existing folder to the student."""
    if os.path.lexists(account.home):
        raise RefusedError(
            f"{account.home} exists already, perhaps from an earlier account",
            f"Move it away, then run the command again: mv {account.home} {account.home}.old",
        )


def make_private(account: Account) -> None:
    """Check that the new home is the account's folder, and make it 0700.

    shadow before 4.8 ignores HOME_MODE. HostError when the home is not as useradd must have made it.
    """
    try:
        descriptor = os.open(account.home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"useradd made no usable home {account.home} ({os.strerror(error.errno or 0)})") from error
    try:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (account.uid, account.gid):
            raise HostError(
                f"the new home {account.home} belongs to {status.st_uid}:{status.st_gid}, "
                f"not to {account.uid}:{account.gid}"
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def is_complete(account: Account) -> bool:
    """Whether useradd finished the home: owner, group, mode, and a copy of the whole skeleton."""
    try:
        status = account.home.lstat()
    except FileNotFoundError:
        return False
    theirs = (account.uid, account.gid)
    if not stat.S_ISDIR(status.st_mode) or (status.st_uid, status.st_gid) != theirs or status.st_mode & 0o077:
        return False
    for path, model in _tree(SKELETON):
        try:
            copy = (account.home / path).lstat()
        except OSError:
            return False
        if (copy.st_uid, copy.st_gid) != theirs or not _is_like(copy, model, may_be_shorter=False):
            return False
    return True


def remove_unused(account: Account) -> None:
    """Remove a home that `create` left unfinished. RefusedError when something in it is not from the skeleton."""
    try:
        status = account.home.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, account.uid):
        raise RefusedError(f"{account.home} was not made for {account.username}", "It was left alone.")
    models = dict(_tree(SKELETON))
    for path, found in _tree(account.home):
        model = models.get(path)
        if model is None or found.st_uid not in (0, account.uid) or not _is_like(found, model, may_be_shorter=True):
            raise RefusedError(
                f"{account.home} has files that useradd did not put there ({path})",
                f"Move it away, then run the command again: mv {account.home} {account.home}.old",
            )
    _remove(account.home)


def remove(account: Account) -> None:
    """`rm -rf --one-file-system` of exactly this home, after it was retrieved, verified and emptied.

    RefusedError when it is not the account's, or something is mounted in it; HostError when a part of it stays.
    """
    refuse_unsafe_root(account.home.parent)
    try:
        status = account.home.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, account.uid):
        raise RefusedError(f"{account.home} is not a folder of {account.username}", "It was left alone.")
    if mounted := mounts_within(account.home):
        raise RefusedError(
            f"something is mounted in the home of {account.username}: {', '.join(mounted)}",
            f"Unmount it, then run the command again: umount {mounted[-1]}",
        )
    try:
        os.rmdir(account.home)  # as a rule the student's child has emptied it
    except OSError:
        _remove(account.home)


def mounts_within(folder: Path) -> list[str]:
    """Mount points at or below the folder, the deepest last."""
    real = os.path.realpath(folder)
    found = [mount.point for mount in mounts() if mount.point == real or mount.point.startswith(f"{real}/")]
    return sorted(found, key=lambda point: point.count("/"))


def _remove(home: Path) -> None:
    run(["rm", "-rf", "--one-file-system", "--", str(home)], timeout=_REMOVAL_TIMEOUT)
    if os.path.lexists(home):
        raise HostError(f"{home} could not be removed completely")


def _tree(top: Path) -> list[tuple[str, os.stat_result]]:
    """Relative path and lstat of every entry below; follows no link."""
    found = []
    for folder, folders, files, descriptor in os.fwalk(top, follow_symlinks=False):
        for name in (*folders, *files):
            path = os.path.relpath(os.path.join(folder, name), top)
            found.append((path, os.stat(name, dir_fd=descriptor, follow_symlinks=False)))
    return found


def _is_like(copy: os.stat_result, model: os.stat_result, *, may_be_shorter: bool) -> bool:
    if stat.S_IFMT(copy.st_mode) != stat.S_IFMT(model.st_mode):
        return False
    if not stat.S_ISREG(model.st_mode):
        return True
    return copy.st_size == model.st_size or (may_be_shorter and copy.st_size < model.st_size)
