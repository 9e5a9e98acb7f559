"""locked.json: the students whom the teacher locked out of a course, 0600 root, replaced atomically.

A file of its own: the supervisor's short-lived commands of an older release, which restart a front page, must be able
to read the ledgers. They do not know this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.system import root_files


def read(file: Path) -> dict[str, str]:
    """username → since when, ISO 8601. Empty when the teacher never locked a student out."""
    try:
        found = json.loads(file.read_text(encoding="ascii"))
        return {str(name): str(since) for name, since in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise HostError(
            f"{file} is damaged: {error}", "Restore it from a backup, or delete it: then none is locked."
        ) from error


def update(file: Path, new: Mapping[str, str], *, gone: Iterable[str] = ()) -> None:
    """Add these and drop those of `gone`; on disk when this returns."""
    before = read(file)
    now = {**new, **before}
    for username in gone:
        now.pop(username, None)
    if now != before:
        root_files.replace(file, json.dumps(now, indent=0), durable=True)
