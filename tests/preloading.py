"""What a class's fork server finds at its first start is lent to the classes that this worker starts later.

To find it takes a second of a processor. A class that is launched again starts with what it found before, too.
"""

from __future__ import annotations

from nblauncher.paths import CoursePaths
from nblauncher.system import root_files

_found: list[str] = []


def lend(paths: CoursePaths) -> None:
    """Before a class starts."""
    if _found and not paths.preloaded.exists():
        paths.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        root_files.replace(paths.preloaded, _found[0])


def keep(paths: CoursePaths) -> None:
    """While it runs. A note of another environment is harmless: no fork server uses it."""
    if not _found and (text := root_files.read(paths.preloaded)):
        _found.append(text)
