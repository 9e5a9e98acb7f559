"""The course's own packages: a step of `setup` and `reload` whenever notebook.requirements is not what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher import environments, requirements
from nblauncher.host import Host
from nblauncher.plan import Phase
from nblauncher.requirements import Requirements
from nblauncher.settings import Settings

CONTENT = "requirements.txt"
"""The name under which the requirements file is read and kept."""


@dataclass(frozen=True)
class BuildPackages:
    """What pip resolves and builds is done by an account that owns nothing; root installs the wheels."""

    wanted: Requirements
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"build and install the course's packages ({len(self.wanted.lines)} asked for)"

    def apply(self, host: Host) -> None:
        host.accounts.ensure_system_accounts(locks=host.locks)
        modules = host.settings.notebook.preload
        environments.build(host.paths.environments, self.wanted, modules, host.accounts.idle_builder, host.tell)


def wanted(settings: Settings, contents: Mapping[str, bytes]) -> Requirements | None:
    """None when the course asks for nothing. InputError for lines that are no requirements."""
    given = settings.notebook.requirements
    if isinstance(given, Path):
        return requirements.parse(contents[CONTENT], given.name) if CONTENT in contents else None
    return None if given is None else Requirements(given)


def phase(host: Host, contents: Mapping[str, bytes]) -> Phase:
    """Looks only."""
    asked = wanted(host.settings, contents)
    is_done = asked is None or environments.is_built(host.paths.environments, asked)
    return Phase("packages", () if asked is None or is_done else (BuildPackages(asked),))
