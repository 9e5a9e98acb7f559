"""Whether a process may be writing to a file: a read lease is granted only while none has it open for writing.

mmap(2) counts as open. File systems without leases (NFS) report an error. Runs as the file's owner.
Source: fcntl(2) "Leases".
"""

from __future__ import annotations

import errno
import fcntl
from enum import Enum


class Hold(Enum):
    """The result of a request for a read lease."""

    HELD = "held"  # until the descriptor is closed
    REFUSED = "refused"  # a process has the file open for writing
    UNSUPPORTED = "unsupported"  # the file system has no leases


def hold(descriptor: int) -> Hold:
    """Request a read lease on a file that is open for reading only. SIGIO must be ignored meanwhile."""
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
    """Whether a process has it open for writing now. Makes no writer wait. As `hold`."""
    held = hold(descriptor)
    if held is Hold.HELD:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return held is Hold.REFUSED
