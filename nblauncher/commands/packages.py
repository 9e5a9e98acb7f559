"""A course's own packages: steps of `setup` and `reload` if notebook.requirements differs from what is installed.

Steps of `grade init` as well, for grading.requirements.

They are built without the locks, which other courses need, and put into use under the locks after a new survey.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.config import requirements
from nblauncher.config.requirements import Requirements
from nblauncher.config.settings import Settings
from nblauncher.environments import course_packages
from nblauncher.errors import RefusedError
from nblauncher.ledger import locked
from nblauncher.model import Account
from nblauncher.planning.host import Host, host_lock
from nblauncher.planning.plan import Phase

CONTENT = "requirements.txt"
"""The name under which the requirements file is read and kept."""

_NAMED = 5


@dataclass(frozen=True)
class Environment:
    """One of the course's environments: its folder, the modules that must be importable if it has them, and words."""

    folder: Path
    modules: tuple[str, ...] = ()
    packages: str = "the course's packages"
    use: str = "for new kernels"


@dataclass(frozen=True)
class BuildPackages:
    """pip resolves and builds as an account that owns nothing; root installs the wheels."""

    environment: Environment
    wanted: Requirements
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"build and install {self.environment.packages} ({len(self.wanted.lines)} requested)"

    def apply(self, host: Host) -> None:
        with locked(host_lock(host), "this host's accounts") as lock:
            host.accounts.ensure_system_accounts(locks=(*host.locks, lock))
        before = _accepted(host)
        made = self.environment
        course_packages.prepare(made.folder, self.wanted, made.modules, lambda: _idle_builder(host), host.tell)
        if _accepted(host) != before:
            raise RefusedError(
                "the course was removed or changed while its packages were built",
                "Nothing else was changed. Run the command again if the course is still wanted.",
            )


@dataclass(frozen=True)
class UsePackages:
    """Switch to the packages; kernels that run keep theirs."""

    environment: Environment
    wanted: Requirements
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"use {self.environment.packages} {self.environment.use}"

    def apply(self, host: Host) -> None:
        course_packages.use(self.environment.folder, self.wanted)


def _idle_builder(host: Host) -> Account:
    if found := host.accounts.leftovers_of_builder():
        host.tell(f"removing what the account that builds packages has on this host: {', '.join(found[:_NAMED])}")
    return host.accounts.idle_builder()


def _accepted(host: Host) -> dict[str, bytes]:
    """The inputs that were accepted last; a removed course has none."""
    folder = host.paths.accepted
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else {}


def wanted(settings: Settings, contents: Mapping[str, bytes]) -> Requirements | None:
    """None when the course asks for nothing. InputError for lines that are not requirements."""
    given = settings.notebook.requirements
    if isinstance(given, Path):
        return requirements.parse(contents[CONTENT], given.name) if CONTENT in contents else None
    return None if given is None else Requirements(given)


def phases(host: Host, contents: Mapping[str, bytes]) -> tuple[Phase, ...]:
    """Changes nothing."""
    requested = wanted(host.settings, contents)
    return () if requested is None else phases_of(for_kernels(host), requested)


def for_kernels(host: Host) -> Environment:
    return Environment(host.paths.environments, host.settings.notebook.preload)


def phases_of(environment: Environment, requested: Requirements) -> tuple[Phase, ...]:
    """The first is carried out before the locks are taken; when it is done, it is not planned again."""
    folder = environment.folder
    if course_packages.is_built(folder, requested):
        return ()
    building = () if course_packages.is_there(folder, requested) else (BuildPackages(environment, requested),)
    using = UsePackages(environment, requested)
    return (Phase("build packages", building, is_preparation=True), Phase("packages", (using,)))
