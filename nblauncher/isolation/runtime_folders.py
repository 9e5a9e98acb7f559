"""The students' JUPYTER_RUNTIME_DIRs: each a small file system, so that no student can fill /run for the others.

Sources: mount(2), umount2(2), tmpfs(5). Everything here runs as root, on names in a folder that only root can write to.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import libc
from nblauncher.system.descriptors import open_private_folder

log = logging.getLogger(__name__)

OPTIONS = "size=16m,nr_inodes=4096"
"""A kernel needs six sockets and a file of 300 bytes."""

_NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.ENODEV)


def provide(parent: Path, account: Account) -> None:
    """Mount a tmpfs on the folder `parent`/UID, 0700 and the account's. A mounted one is kept.

    Where mounting is not allowed (in a container) it is a plain folder. HostError when something else has its name.
    """
    folder = parent / str(account.uid)
    _make(parent, account)
    if _is_mounted(folder):
        return
    options = f"{OPTIONS},mode=0700,uid={account.uid},gid={account.gid}"
    try:
        libc.mount("nblauncher", folder, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, options)
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise HostError(f"cannot mount a file system on {folder}: {error.strerror}") from error
        log.warning("%s shares the space of %s: %s", account.username, parent, error.strerror)


def take_away(parent: Path, uid: int) -> None:
    """Unmount it, even if it is still in use; an empty folder is left."""
    folder = parent / str(uid)
    while _is_mounted(folder):
        try:
            libc.umount2(folder, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
        except OSError as error:
            log.warning("cannot unmount %s: %s", folder, error.strerror)
            return


def take_all_away(parent: Path) -> None:
    for name in os.listdir(parent):
        if name.isdigit():
            take_away(parent, int(name))


def _make(parent: Path, account: Account) -> None:
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.close(open_private_folder(descriptor, str(account.uid), account))
    finally:
        os.close(descriptor)


def _is_mounted(folder: Path) -> bool:
    try:
        return folder.lstat().st_dev != folder.parent.lstat().st_dev
    except FileNotFoundError:
        return False
