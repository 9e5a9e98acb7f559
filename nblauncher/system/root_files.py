"""Files that a process replaces whole, in a folder that only its own account can write to.

Most are root's notes for its own later processes; `read` believes one only when no other account could have written it.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def replace(
    file: Path, content: bytes | str, *, mode: int = 0o600, durable: bool = False, owner: int | None = None
) -> None:
    """Replace the file atomically: a reader sees the old content or the new one. OSError; the old file stays then.

    `durable`: content and name are on the disk when this returns. `owner` is a uid; None: the caller. Text is ASCII.
    One process at a time may replace a file; the next one overwrites what a killed one left.
    """
    data = content.encode("ascii") if isinstance(content, str) else content
    temporary = file.with_name(f".{file.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as stream:
            if owner is not None:
                os.fchown(stream.fileno(), owner, -1)
            os.fchmod(stream.fileno(), mode)  # whatever the umask is, or the mode of what was left
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(file.parent)


def read(file: Path) -> str | None:
    """Its content; None when there is no such file, or other accounts than root could read or write it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as stream:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != 0 or facts.st_mode & 0o077:
            log.warning("%s is not root's alone and is not used", file)
            return None
        return stream.read()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
