"""hashes.json: the argon2 hashes of a course's notebook passwords, 0600 root, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def read(file: Path) -> dict[str, str]:
    """{username: "argon2:…"}; empty when nothing was written yet."""
    try:
        return dict(json.loads(file.read_text(encoding="ascii")))
    except FileNotFoundError:
        return {}


def update(file: Path, new: Mapping[str, str], *, gone: Iterable[str] = ()) -> None:
    """Add or replace these hashes and drop those of `gone`; on disk when this returns."""
    hashes = {**read(file), **new}
    for username in gone:
        hashes.pop(username, None)
    write_private(file, json.dumps(hashes, indent=0).encode("ascii"))


def write_private(file: Path, content: bytes) -> None:
    """Replace a file of root's own state folder, 0600, atomically and durably."""
    temporary = file.with_name(f".{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
