"""Disk quotas: how many bytes of a file system a uid may have, set and read by root.

Source: quotactl(2). The values are for users, in the generic form that ext4 and XFS both take.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.system import libc
from nblauncher.system.mounts import mounts

_BLOCK = 1024
"""Bytes of a block in a limit (QIF_DQBLKSIZE), whatever the file system's block size is."""

_LIMITS_OF_BLOCKS = 1
_RECORD = struct.Struct("QQQQQQQQI4x")
"""if_dqblk: hard and soft limit of blocks, bytes in use, hard and soft limit of inodes, inodes in use, two times, and
which fields are valid.
"""

_NO_QUOTA = (errno.ESRCH, errno.ENOSYS, errno.ENOTBLK, errno.ENOENT, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""EPERM: a container's seccomp filter forbids quotactl to root as well (systemd-nspawn)."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The quota of a uid. `limit` in bytes; None: no limit."""

    used: int
    limit: int | None


def read(folder: Path, uid: int) -> Quota | None:
    """The uid's quota on the file system of this folder; None where it has none. HostError."""
    return read_all(folder, [uid]).get(uid)


def read_all(folder: Path, uids: Iterable[int]) -> dict[int, Quota]:
    """The same for many uids, with one look at the mounts."""
    device = _device_of(folder)
    if device is None:
        return {}
    return {uid: quota for uid in uids if (quota := _read(device, uid)) is not None}


def _read(device: str, uid: int) -> Quota | None:
    record = ctypes.create_string_buffer(_RECORD.size)
    if not _quotactl(libc.Q_GETQUOTA, device, uid, record):
        return None
    hard, _soft, used, *_rest = _RECORD.unpack(record.raw)
    return Quota(used, hard * _BLOCK or None)


def limit(folder: Path, uid: int, size: int | None) -> None:
    """Let the uid have this many bytes there; None: no limit. HostError where there are no quotas."""
    device = _device_of(folder)
    blocks = 0 if size is None else max(1, size // _BLOCK)
    record = ctypes.create_string_buffer(_RECORD.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _LIMITS_OF_BLOCKS))
    if device is None or not _quotactl(libc.Q_SETQUOTA, device, uid, record):
        raise HostError(f"the file system of {folder} has no quotas")


def _quotactl(command: int, device: str, uid: int, record: ctypes.Array[ctypes.c_char]) -> bool:
    """False where the file system has no quotas, or they are off."""
    try:
        libc.quotactl(command, device, uid, record)
    except OSError as error:
        if error.errno in _NO_QUOTA:
            return False
        raise HostError(f"the quota of uid {uid} on {device}: {error.strerror}") from error
    return True


def _device_of(folder: Path) -> str | None:
    """The block device that the folder's file system is on; None for one without (NFS, tmpfs, overlay)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    device = folder.stat().st_dev
    mount = next((mount for mount in mounts() if mount.device == device), None)
    return mount.source if mount is not None and mount.source.startswith("/dev/") else None
