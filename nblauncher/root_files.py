"""Small files that root writes for its own later processes, and believes only when nobody else could have."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def replace(file: Path, text: str) -> None:
    """Write it anew, 0600, atomically: a reader sees the old or the new one. Not fsynced. OSError when it cannot be.

    One process at a time; what a killed one left is written over by the next.
    """
    temporary = file.with_name(f".{file.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="ascii") as stream:
            stream.write(text)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read(file: Path) -> str | None:
    """What is in it; None when there is none, or when it is not a file that only root can read and write."""
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
