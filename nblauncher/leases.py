"""Whether somebody may be writing to a file: a read lease is granted only while nobody has it open for writing.

Source: fcntl(2) "Leases"; mmap(2) counts as open. File systems without leases (NFS) say so. Runs as the file's owner.
"""

from __future__ import annotations

import errno
import fcntl
from enum import Enum


class Hold(Enum):
    """What came of asking for a read lease."""

    HELD = "held"  # until the descriptor is closed
    REFUSED = "refused"  # somebody has the file open for writing
    UNSUPPORTED = "unsupported"  # the file system has no leases


def hold(descriptor: int) -> Hold:
    """Ask for a read lease on a file that is open for reading only. SIGIO must be ignored meanwhile."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return Hold.REFUSED
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOTTY):
            raise
        return Hold.UNSUPPORTED
    return Hold.HELD


def is_open_for_writing(descriptor: int) -> bool:
    """Whether somebody has it open for writing at this moment; nobody who wants to has to wait. As `hold`."""
    held = hold(descriptor)
    if held is Hold.HELD:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return held is Hold.REFUSED
