"""Whether the teacher's notebooks can be opened: a child that is the teacher looks, with limits of time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nblauncher.exchange import merge
from nblauncher.exchange.send.teacher_side import open_source
from nblauncher.model import Account
from nblauncher.system import bounds, files
from nblauncher.system.streams import Voice, frames_of

_SECONDS = 15.0
_MEMORY = 1 << 30
_STALL, _LONGEST = 60.0, 300.0


def faults(owner: Account, source: Path, paths: Iterable[str]) -> Mapping[str, str]:
    """What is wrong with the notebooks among these files, by path.

    HostError when the owner's child failed or took too long. Without a notebook none is started.
    """
    notebooks = sorted(path for path in paths if path.endswith(".ipynb"))
    found: dict[str, str] = {}
    if notebooks:
        merge.load()  # before the fork: what is sent next is merged with it as well
        for frame in frames_of(owner, _examine, source, notebooks, stall=_STALL, longest=_LONGEST):
            found[str(frame.header["path"])] = str(frame.header["words"])
    return found


def _examine(output: int, source: Path, paths: Iterable[str]) -> None:
    """Runs as the owner. A file that cannot be read is reported when it is sent."""
    voice = Voice(output)
    root = open_source(source)
    for path in paths:
        voice.tick()
        above, _, name = path.rpartition("/")
        try:
            folder = files.open_below(root, above)
        except OSError:
            continue
        try:
            descriptor, status = files.open_file(name, folder)
        except OSError:
            continue
        finally:
            os.close(folder)
        with open(descriptor, "rb") as file:
            if status.st_size > merge.LARGEST:
                continue
            data = file.read(merge.LARGEST)
        try:
            with bounds.bounded(seconds=_SECONDS, memory=_MEMORY):
                words = merge.what_is_wrong(data)
        except (bounds.TooLongError, MemoryError):
            words = "it takes too long or too much memory to read"
        if words:
            voice.send({"kind": "fault", "path": path, "words": words})
