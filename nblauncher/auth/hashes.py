"""hashes.json: the argon2 hashes of a course's notebook passwords, 0600 root, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nblauncher.system import root_files


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
    root_files.replace(file, json.dumps(hashes, indent=0), durable=True)
