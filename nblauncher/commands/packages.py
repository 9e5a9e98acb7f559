"""The course's own packages: steps of `setup` and `reload` whenever notebook.requirements is not what is installed.

They are built without the locks, which other courses need, and used under them when the host was looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher import environments, requirements
from nblauncher.errors import RefusedError
from nblauncher.host import Host, host_lock
from nblauncher.ledger import locked
from nblauncher.model import Account
from nblauncher.plan import Phase
from nblauncher.requirements import Requirements
from nblauncher.settings import Settings

CONTENT = "requirements.txt"
"""The name under which the requirements file is read and kept."""

_NAMED = 5


@dataclass(frozen=True)
class BuildPackages:
    """What pip resolves and builds is done by an account that owns nothing; root installs the wheels."""

    wanted: Requirements
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"build and install the course's packages ({len(self.wanted.lines)} asked for)"

    def apply(self, host: Host) -> None:
        with locked(host_lock(host), "this host's accounts") as lock:
            host.accounts.ensure_system_accounts(locks=(*host.locks, lock))
        before = _accepted(host)
        folder, modules = host.paths.environments, host.settings.notebook.preload
        environments.prepare(folder, self.wanted, modules, lambda: _idle_builder(host), host.tell)
        if _accepted(host) != before:
            raise RefusedError(
                "the course was removed or changed while its packages were built",
                "Nothing else was changed. Run the command again if the course is still wanted.",
            )


@dataclass(frozen=True)
class UsePackages:
    """From now on; kernels that run keep what they have."""

    wanted: Requirements
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "use the course's packages for new kernels"

    def apply(self, host: Host) -> None:
        environments.use(host.paths.environments, self.wanted)


def _idle_builder(host: Host) -> Account:
    if found := host.accounts.leftovers_of_builder():
        host.tell(f"removing what the account that builds packages has on this host: {', '.join(found[:_NAMED])}")
    return host.accounts.idle_builder()


def _accepted(host: Host) -> dict[str, bytes]:
    """The inputs that a setup or reload took over last; a removed course has none."""
    folder = host.paths.accepted
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.is_dir() else {}


def wanted(settings: Settings, contents: Mapping[str, bytes]) -> Requirements | None:
    """None when the course asks for nothing. InputError for lines that are no requirements."""
    given = settings.notebook.requirements
    if isinstance(given, Path):
        return requirements.parse(contents[CONTENT], given.name) if CONTENT in contents else None
    return None if given is None else Requirements(given)


def phases(host: Host, contents: Mapping[str, bytes]) -> tuple[Phase, ...]:
    """Looks only."""
    asked = wanted(host.settings, contents)
    return () if asked is None else phases_of(host.paths.environments, asked)


def phases_of(folder: Path, asked: Requirements) -> tuple[Phase, ...]:
    """The first is carried out before the locks are taken; when it is done, it is not planned again."""
    if environments.is_built(folder, asked):
        return ()
    building = () if environments.is_there(folder, asked) else (BuildPackages(asked),)
    return (Phase("build packages", building, is_preparation=True), Phase("packages", (UsePackages(asked),)))
