"""The config and the roster of a command: read by trusted paths, parsed, with every problem of both at once."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nblauncher.commands import packages, wording
from nblauncher.config import roster as rosters
from nblauncher.config import settings as config
from nblauncher.config.settings import Settings
from nblauncher.config.trusted_files import read_trusted
from nblauncher.errors import InputError, RefusedError
from nblauncher.model import Roster
from nblauncher.printable import printable

Contents = dict[str, bytes]


def read(
    file: Path, roster_file: Path | None, *, allowed_uids: frozenset[int]
) -> tuple[Settings | None, Roster | None, list[str], Contents]:
    """Config and roster as far as they are usable, and every problem of both: a bad config does not hide a bad roster.

    The last value is the bytes that were read, by the name under which the state folder keeps them.

    `roster_file` was given on the command line; otherwise the config names it, or it lies beside a bad config.
    """
    problems: list[str] = []
    contents: Contents = {}
    settings = roster = None
    try:
        contents["notebooks.cfg"] = read_trusted(file, allowed_uids=allowed_uids)
        settings = config.parse(contents["notebooks.cfg"], file, uid_min=uid_min())
        if isinstance(file_of_packages := settings.notebook.requirements, Path):
            contents[packages.CONTENT] = read_trusted(file_of_packages, allowed_uids=allowed_uids)
        packages.wanted(settings, contents)
        settings = wording.with_texts(settings, contents, allowed_uids)
    except (InputError, RefusedError) as error:
        problems += _problems_of(error)
    source = roster_file or (settings.students if settings else file.with_name("students.csv"))
    if settings is not None or roster_file is not None or os.path.lexists(source):
        try:
            contents["students.csv"] = read_trusted(source, allowed_uids=allowed_uids)
            roster = rosters.parse(contents["students.csv"], printable(source.name))
        except (InputError, RefusedError) as error:
            problems += _problems_of(error)
    return settings, roster, problems, contents


def uid_min() -> int:
    """The lowest uid of people's accounts on this host (login.defs(5)); system accounts are below."""
    found = re.search(r"^\s*UID_MIN\s+(\d+)", login_defs(), re.M)
    return int(found[1]) if found else 1000


def _problems_of(error: InputError | RefusedError) -> list[str]:
    """With the hint of a refusal. Wrong lines need none, except the name that is suggested instead."""
    if isinstance(error, RefusedError):
        return [f"{error.problem}. {error.hint}"]
    remedy = error.hint.replace("Nothing was changed.", "").strip()
    if remedy and len(error.problems) == 1:
        return [f"{error.problem}{'' if error.problem.endswith(('.', '?')) else '.'} {remedy}"]
    return list(error.problems)


def login_defs() -> str:
    """login.defs(5): what the host's own account tools go by."""
    try:
        return Path("/etc/login.defs").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, PermissionError):
        return ""
