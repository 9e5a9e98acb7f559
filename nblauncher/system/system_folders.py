"""Folders in which the system looks up programs, modules and settings by name: no home may be made there.

A home is a folder that has the student's name and belongs to the student. In a folder of Python modules a student
called `usercustomize` would become root when root next runs `python3`; the same holds for plugins, units, jobs, sites.
Sources: hier(7), file-hierarchy(7), site(3py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_PROGRAMS = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
_RUNNING = ("/boot", "/dev", "/efi", "/etc", "/proc", "/run", "/sys", "/sysroot", "/ostree")
_PACKAGES = ("/gnu", "/nix", "/snap", "/opt/nblauncher")

_WRITTEN_BY_ROOT = (*_PROGRAMS, *_RUNNING, *_PACKAGES, "/var/spool", "/var/lib/nblauncher", "/var/log/nblauncher")
_FOR_HOMES = (
    *_WRITTEN_BY_ROOT,
    *("/root", "/tmp", "/var/tmp", "/lost+found"),  # noqa: S108
    *(f"/var/{name}" for name in ("account", "backups", "cache", "crash", "db", "games", "lib", "local", "lock")),
    *(f"/var/{name}" for name in ("log", "mail", "opt", "run", "www", "yp")),
)
_SHARED = ("/", "/var", "/opt", "/media")
"""Homes may be in folders below these, but not in these themselves: packages make folders there, under any name."""

_SEARCHED = re.compile(r"site-packages|dist-packages|node_modules|systemd|.+\.d")
_SEARCHED_ITSELF = re.compile(r"bin|sbin|lib|lib32|lib64|libexec|python[0-9.]*|www|html|public_html")


def why_no_homes(folder: Path) -> str:
    """Why homes must not be made in this folder, as written and with links resolved; '' if they may be."""
    for place in (folder, _real(folder)):
        if above := _system_folder(place, _FOR_HOMES):
            return f"{above} is the system's, which looks up what is in it by name"
        if place in map(Path, _SHARED) or place in {_real(Path(shared)) for shared in _SHARED}:
            return f"{place} holds the system's folders; make a folder in it for the homes"
        if any(map(_SEARCHED.fullmatch, place.parts)) or _SEARCHED_ITSELF.fullmatch(place.name):
            return "programs look for their own parts in a folder of that name"
    return ""


def why_nothing_of_a_course(path: Path) -> str:
    """Why root must not write a course's files there, under names that the teacher chooses; '' if it may."""
    for place in (path, _real(path)):
        if above := _system_folder(place, _WRITTEN_BY_ROOT):
            return f"{above} is the system's, which looks up what is in it by name"
    return ""


def _system_folder(path: Path, folders: tuple[str, ...]) -> str:
    """The one of these folders that holds the path. /bin is often /usr/bin, and /var/run /run: both names count."""
    for folder in folders:
        for name in (Path(folder), _real(Path(folder))):
            if path == name or name in path.parents:
                return folder
    return ""


def _real(path: Path) -> Path:
    """With its links resolved, as far as the caller may look."""
    try:
        return Path(os.path.realpath(path))
    except OSError:
        return path
