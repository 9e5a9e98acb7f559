"""Disk quotas of file systems: what the kernel lets a uid have, set and read by root.

Sources: quotactl(2), proc_pid_mountinfo(5). The values are for users, in the generic form that ext4 and XFS both take.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError

_GETQUOTA, _SETQUOTA, _USER = 0x800007, 0x800008, 0
_BLOCK = 1024
"""Bytes of a block of a limit, whatever the file system's are (QIF_DQBLKSIZE)."""

_LIMITS_OF_BLOCKS = 1
_RECORD = struct.Struct("QQQQQQQQI4x")
"""if_dqblk: hard and soft limit of blocks, bytes in use, hard and soft limit of inodes, inodes in use, two times, and
which of them are meant."""

_NO_QUOTA = (errno.ESRCH, errno.ENOSYS, errno.ENOTBLK, errno.ENOENT, errno.EINVAL, errno.ENOTSUP)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one uid. `limit` in bytes; None: as much as there is."""

    used: int
    limit: int | None


def read(folder: Path, uid: int) -> Quota | None:
    """The uid's quota on the file system of this folder; None where it has none. HostError."""
    device = _device_of(folder)
    if device is None:
        return None
    record = ctypes.create_string_buffer(_RECORD.size)
    if not _ask(_GETQUOTA, device, uid, record):
        return None
    hard, _soft, used, *_rest = _RECORD.unpack(record.raw)
    return Quota(used, hard * _BLOCK or None)


def limit(folder: Path, uid: int, size: int | None) -> None:
    """Let the uid have this many bytes there, None: as many as there are. HostError where there are no quotas."""
    device = _device_of(folder)
    blocks = 0 if size is None else max(1, size // _BLOCK)
    record = ctypes.create_string_buffer(_RECORD.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _LIMITS_OF_BLOCKS))
    if device is None or not _ask(_SETQUOTA, device, uid, record):
        raise HostError(f"the file system of {folder} has no quotas")


def _ask(command: int, device: str, uid: int, record: ctypes.Array[ctypes.c_char]) -> bool:
    """False where the file system has no quotas, or they are off."""
    if _libc.quotactl(ctypes.c_int(command << 8 | _USER), device.encode(), uid, record) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_QUOTA:
        return False
    raise HostError(f"the quota of uid {uid} on {device}: {os.strerror(number)}")


def _device_of(folder: Path) -> str | None:
    """The block device that the folder's file system is on; None for one without (NFS, tmpfs, overlay)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    number = folder.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields, _, about = line.partition(" - ")
        if fields.split()[2] == wanted:
            source = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), about.split()[1])
            return source if source.startswith("/dev/") else None
    return None
