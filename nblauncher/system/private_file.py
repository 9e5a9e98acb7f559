"""A private file in a folder of its owner, in which other accounts may be able to write. Runs as the owner."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace(file: Path, content: bytes) -> None:
    """Replace it atomically, with mode 0600; on the disk when this returns. OSError; the old file stays then."""
    # Not `root_files.replace`: this runs as the owner, in a folder that other accounts may be able to write to. With
    # O_EXCL and a name that cannot be guessed we never open a file that another account put there.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, file)
    except OSError:
        os.unlink(temporary)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
