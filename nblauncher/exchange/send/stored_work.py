"""A student's work as a retrieval stored it, on its way back into the home. Runs as the teacher."""

from __future__ import annotations

import os
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.exchange.retrieve.assignment import manifest_of
from nblauncher.system import files
from nblauncher.system.streams import Voice

_ROWS = 200
_WORK = "work/"


def list_work(output: int, target: Path, folder: str, username: str) -> None:
    """Send the path below the material folder of every stored file, and the sha256 of what was handed out there.

    HostError when the retrieval is gone.
    """
    try:
        store = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        listed = manifest_of(files.open_below(store, f"{folder}/{username}"))["files"]
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise HostError(f"the work is not in {target / folder / username} any more", "Put it back.") from error
    rows = [
        {"path": row["path"].removeprefix(_WORK), "sent": row["sent"] or ""}
        for row in listed
        if row["path"].startswith(_WORK)
    ]
    voice = Voice(output)
    for start in range(0, len(rows), _ROWS):
        voice.send({"kind": "rows", "rows": rows[start : start + _ROWS]})
