"""The students' JUPYTER_RUNTIME_DIRs: each a small file system of its own, so that nobody can fill /run for the others.

Sources: mount(2), umount2(2), tmpfs(5). Everything here runs as root, on names in a folder of root's alone.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from pathlib import Path

from nblauncher.descriptors import open_private_folder
from nblauncher.errors import HostError
from nblauncher.model import Account

log = logging.getLogger(__name__)

OPTIONS = "size=16m,nr_inodes=4096"
"""A kernel needs six sockets and a file of 300 bytes."""

_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH, _NOFOLLOW = 2, 8
_NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)


def provide(parent: Path, account: Account) -> None:
    """The folder `parent`/UID with a tmpfs on it, 0700 and the account's. One that is there already is kept.

    Where nothing can be mounted (a container) it is a plain folder. HostError when something else has its name.
    """
    folder = parent / str(account.uid)
    _make(parent, account)
    if _is_mounted(folder):
        return
    options = f"{OPTIONS},mode=0700,uid={account.uid},gid={account.gid}".encode("ascii")
    if _libc.mount(b"nblauncher", os.fsencode(folder), b"tmpfs", _NOSUID | _NODEV | _NOEXEC, options) != 0:
        number = ctypes.get_errno()
        if number not in _NOT_ALLOWED:
            raise HostError(f"cannot mount a file system on {folder}: {os.strerror(number)}")
        log.warning("%s shares the space of %s: %s", account.username, parent, os.strerror(number))


def take_away(parent: Path, uid: int) -> None:
    """Unmount it, whoever is still in it; what is left is an empty folder."""
    folder = parent / str(uid)
    while _is_mounted(folder):
        if _libc.umount2(os.fsencode(folder), _DETACH | _NOFOLLOW) != 0:
            log.warning("cannot unmount %s: %s", folder, os.strerror(ctypes.get_errno()))
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
