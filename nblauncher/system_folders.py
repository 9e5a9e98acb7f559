"""Folders in which the system looks for programs, modules and settings by name: no student's name may be one there.

A home is a folder that has the student's name and belongs to the student. In a folder of Python modules a student
called `usercustomize` would be root at root's next `python3`; so it is with plugins, units, jobs and sites.
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
"""Folders for homes may be in these, but must not be these: packages put folders of theirs there, under any name."""

_SEARCHED = re.compile(r"site-packages|dist-packages|node_modules|systemd|.+\.d")
_SEARCHED_ITSELF = re.compile(r"bin|sbin|lib|lib32|lib64|libexec|python[0-9.]*|www|html|public_html")


def why_no_homes(folder: Path) -> str:
    """Why homes must not be made in this folder, as it is written and as it is with links resolved; '' if they may."""
    for one in (folder, _real(folder)):
        if above := _system_folder(one, _FOR_HOMES):
            return f"{above} is the system's, which takes what is in it by its name"
        if one in map(Path, _SHARED) or one in {_real(Path(shared)) for shared in _SHARED}:
            return f"{one} holds folders of the system's; make one in it for the homes"
        if any(map(_SEARCHED.fullmatch, one.parts)) or _SEARCHED_ITSELF.fullmatch(one.name):
            return "programs search a folder of that name for parts of theirs"
    return ""


def why_nothing_of_a_course(path: Path) -> str:
    """Why root must not write there what others have named, in the teacher's stead; '' if it may."""
    for one in (path, _real(path)):
        if above := _system_folder(one, _WRITTEN_BY_ROOT):
            return f"{above} is the system's, which takes what is in it by its name"
    return ""


def _system_folder(path: Path, folders: tuple[str, ...]) -> str:
    """/bin is /usr/bin on many hosts, and /var/run is /run: both names count."""
    for folder in folders:
        for one in (Path(folder), _real(Path(folder))):
            if path == one or one in path.parents:
                return folder
    return ""


def _real(path: Path) -> Path:
    """With its links resolved, as far as the caller may look."""
    try:
        return Path(os.path.realpath(path))
    except OSError:
        return path
