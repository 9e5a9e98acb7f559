"""What a class's fork servers find at their first start is lent to the classes that this worker starts later.

To find it takes a second of a processor for each of the two. A class that is launched again starts with what it found
before, too. A note of another environment is harmless: no fork server uses it.
"""

from __future__ import annotations

import json
from pathlib import Path

from nblauncher.paths import CoursePaths
from nblauncher.supervisor.spawners.kernel_fork_server import FOUND
from nblauncher.system import root_files

_servers: list[str] = []
_kernels: list[str] = []
"""Without modules that a teacher wants, as in most classes of the tests."""


def lend(paths: CoursePaths) -> None:
    """Before a class starts."""
    _lend(_servers, paths.preloaded, 0o711)
    _lend(_kernels, paths.kernels_home / FOUND, 0o700)


def keep(paths: CoursePaths) -> None:
    """While it runs."""
    if not _servers and (text := root_files.read(paths.preloaded)):
        _servers.append(text)
    if (
        not _kernels
        and (text := root_files.read(paths.kernels_home / FOUND))
        and json.loads(text)["environment"][-1] == []
    ):
        _kernels.append(text)


def _lend(found: list[str], file: Path, mode: int) -> None:
    if found and not file.exists():
        file.parent.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        file.parent.mkdir(mode=mode, exist_ok=True)
        root_files.replace(file, found[0])
