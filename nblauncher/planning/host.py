"""The only place that chooses the implementations of the seams; `Host` bundles what a step may use."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.errors import RefusedError
from nblauncher.exchange.objects import ObjectStore
from nblauncher.frontends.direct import direct, survey_host_names
from nblauncher.frontends.nginx import nginx
from nblauncher.ledger import CourseLedger, HistoryLedger, HostLedger
from nblauncher.model import Account
from nblauncher.paths import CoursePaths, host_database
from nblauncher.system.processes import run

if TYPE_CHECKING:
    from nblauncher.accounts import Accounts
    from nblauncher.config.settings import Settings
    from nblauncher.frontends import FrontEnd


class Tell(Protocol):
    def __call__(self, words: str, done: int = 0, total: int = 0, /) -> None:
        """`done` of `total` parts of the step are done, where they are counted."""


def _say_nothing(_words: str, _done: int = 0, _total: int = 0, /) -> None:
    pass


@dataclass(frozen=True)
class Host:
    """This machine as one course sees it. It holds no secret and no open file but the locks."""

    settings: Settings
    owner: Account
    """The teacher: owner of roster, material, credentials and retrieved work."""
    accounts: Accounts
    frontend: FrontEnd
    ledger: HostLedger
    course_ledger: CourseLedger
    paths: CoursePaths
    locks: tuple[int, ...] = ()
    """Descriptors that useradd, userdel and chpasswd inherit, so that a killed run still excludes the next one."""
    tell: Tell = _say_nothing
    """Shows a progress line from inside a long step."""

    @property
    def history(self) -> HistoryLedger:
        return HistoryLedger(self.paths.history / "history.db")

    @property
    def contents(self) -> ObjectStore:
        """The contents of the snapshots."""
        return ObjectStore(self.paths.history / "objects")

    @property
    def versions(self) -> ObjectStore:
        """The versions that were handed out."""
        return ObjectStore(self.paths.versions)

    @property
    def group(self) -> str:
        """The course's supplementary group."""
        return f"nbl-{self.settings.course}"

    def remove_state(self) -> None:
        """Delete the ended course's ledger, hashes, keys, sockets and packages. Logs and retrieved work stay."""
        from nblauncher.environments import course_packages

        for environments in (self.paths.environments, self.paths.grading_environments):
            course_packages.remove(environments)
        for folder in (self.paths.run, self.paths.state):
            if os.path.lexists(folder):
                run(["rm", "-rf", "--one-file-system", "--", str(folder)])


def this_host(settings: Settings, owner: Account) -> Host:
    """This machine, with its implementations of the seams. RefusedError on a system that has none yet."""
    if sys.platform != "linux":
        raise RefusedError(
            f"nblauncher runs classes on Linux only so far, not on {sys.platform}",
            "A port must pass tests/contract/test_accounts.py.",
        )
    paths = CoursePaths(settings.course)
    return Host(
        settings=settings,
        owner=owner,
        accounts=LinuxAccounts(),
        frontend={"direct": direct, "nginx": nginx}[settings.web.frontend](settings, survey_host_names()),
        ledger=HostLedger(host_database()),
        course_ledger=CourseLedger(paths.ledger),
        paths=paths,
    )


def host_lock(host: Host) -> Path:
    return host.ledger.file.with_name("host.lock")


def captures_lock(host: Host) -> Path:
    """Its own lock: a command that waits for a deadline must not block `send`."""
    return host.paths.state / "captures.lock"


def course_lock(host: Host) -> Path:
    return host.paths.state / "lock"
