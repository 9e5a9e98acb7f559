"""The one place that chooses the implementations of the seams, and bundles what a step may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nblauncher import environments
from nblauncher.accounts import Accounts
from nblauncher.accounts.linux import LinuxAccounts
from nblauncher.course import CoursePaths, host_database
from nblauncher.errors import RefusedError
from nblauncher.frontends import FrontEnd
from nblauncher.frontends.direct import direct, survey_host_names
from nblauncher.frontends.nginx import nginx
from nblauncher.ledger import CourseLedger, HistoryLedger, HostLedger
from nblauncher.model import Account
from nblauncher.objects import ObjectStore
from nblauncher.processes import run
from nblauncher.settings import Settings


@dataclass(frozen=True)
class Host:
    """This machine as one course sees it. It holds no secret and no open file but the locks."""

    settings: Settings
    owner: Account
    """The teacher: whose files the roster, the material, the credentials and the retrieved work are."""
    accounts: Accounts
    frontend: FrontEnd
    ledger: HostLedger
    course_ledger: CourseLedger
    paths: CoursePaths
    locks: tuple[int, ...] = ()
    """Descriptors that useradd, userdel and chpasswd inherit, so that a killed run still excludes the next one."""
    tell: Callable[[str], None] = lambda _line: None
    """Takes a line of the story from inside a step that is long."""

    @property
    def history(self) -> HistoryLedger:
        return HistoryLedger(self.paths.history / "history.db")

    @property
    def contents(self) -> ObjectStore:
        """What the snapshots consist of."""
        return ObjectStore(self.paths.history / "objects")

    @property
    def versions(self) -> ObjectStore:
        """What was handed out."""
        return ObjectStore(self.paths.versions)

    @property
    def group(self) -> str:
        """The course's supplementary group."""
        return f"nbl-{self.settings.course}"

    def remove_state(self) -> None:
        """The course is over: its ledger, hashes, keys, sockets and packages go. Logs and retrieved work stay."""
        environments.remove(self.paths.environments)
        for folder in (self.paths.run, self.paths.state):
            if os.path.lexists(folder):
                run(["rm", "-rf", "--one-file-system", "--", str(folder)])


def this_host(settings: Settings, owner: Account) -> Host:
    """This machine, with the implementations that it has. RefusedError where there are none yet."""
    if sys.platform != "linux":
        raise RefusedError(
            f"nblauncher runs classes on Linux only so far, not on {sys.platform}",
            "tests/contract/test_accounts.py is what a port must pass.",
        )
    paths = CoursePaths(settings.course)
    return Host(
        settings=settings,
        owner=owner,
        accounts=LinuxAccounts(),
        frontend=(nginx if settings.web.frontend == "nginx" else direct)(settings, survey_host_names()),
        ledger=HostLedger(host_database()),
        course_ledger=CourseLedger(paths.ledger),
        paths=paths,
    )


def host_lock(host: Host) -> Path:
    return host.ledger.file.with_name("host.lock")


def captures_lock(host: Host) -> Path:
    """Whoever waits for a deadline must not keep others from sending."""
    return host.paths.state / "captures.lock"


def course_lock(host: Host) -> Path:
    return host.paths.state / "lock"
