"""The moment of a deadline: copies beforehand, everybody stands still, what changed is copied, everybody goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from nblauncher import cgroups, freezing, moments, survey, workers
from nblauncher.commands import copies, freeze
from nblauncher.commands.copies import Round
from nblauncher.commands.retrieve import AT_ONCE
from nblauncher.deadlines import Moment
from nblauncher.errors import HostError, NblauncherError
from nblauncher.host import Host
from nblauncher.model import Account
from nblauncher.objects import ObjectStore
from nblauncher.plan import Details, SomeFailed, log_descriptors

log = logging.getLogger(__name__)

LAST_COPY = timedelta(seconds=15)
"""So long before the moment what changed meanwhile is copied once more."""

_ROOT = Account("root", 0, 0, Path("/root"))
_NAP = 0.5
_MORE_LOOKS = 4
_INSTANT = 0.25
"""Seconds in which a save that was caught in the middle comes to its end."""
_TOO_LATE_TO_COPY = timedelta(seconds=2)
_LONGEST_EARLY = 60.0
"""Seconds for one student beforehand; nobody may take the others' time."""
_MELTED = "the class ran again before the copy was done"


@dataclass(frozen=True)
class Wait:
    """Until that time."""

    until: datetime
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"wait until {moments.words(self.until)}"

    def apply(self, host: Host) -> None:
        _wait_until(self.until)


@dataclass(frozen=True)
class EarlyCopy:
    """As the student, while the class runs; what is copied now need not be copied while everybody waits.

    No more than that: a student who hinders it, or has too much, is captured at the moment all the same.
    """

    moment: Moment

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.moment.username,)

    def describe(self) -> str:
        return f"copy {copies.what(self.moment.deadline)} of {self.moment.username} beforehand"

    def apply(self, host: Host) -> None:
        left = (self.moment.at - datetime.now(timezone.utc) - _TOO_LATE_TO_COPY).total_seconds()
        if left <= -copies.LATE_AFTER.total_seconds():
            left = _LONGEST_EARLY  # it is late anyway: whoever has much must not keep the class waiting for it
        known = copies.load(host, self.moment)
        if left <= 0 or (known and known.captured):
            return
        try:
            account = survey.student_account(host, self.moment.username)
            copies.keep(host, self.moment, account, None, longest=min(left, _LONGEST_EARLY))
        except HostError as error:
            log.warning("%s was not copied beforehand: %s", self.moment.username, error.problem)


@dataclass(frozen=True)
class CaptureAll:
    """At the moment: everybody stands still until what changed is copied."""

    round: Round
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"capture the work of {len(self.usernames)} students at {moments.words(self.round.at)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        wanted = [one for one in self.round.moments if one.username in self.usernames]
        missing = [one for one in wanted if (known := copies.load(host, one)) is None or known.captured is None]
        groups = freeze.groups_of(host)
        failures: dict[str, str] = {}
        if freezing.can_freeze_groups(groups):
            failures = self._still(host, groups, missing)
        else:
            for name in dict.fromkeys(one.username for one in missing):
                failures |= self._still(host, groups, [one for one in missing if one.username == name])
        self._look_again(host, groups, [one for one in missing if one.username not in failures])
        ObjectStore(copies.objects(host)).sync()
        if failures:
            raise SomeFailed(failures)
        return {}

    def _look_again(self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment]) -> None:
        """Who was caught in the middle of a save is let go on for an instant and captured again, a few times.

        Where that fails the first copy stands.
        """
        for _ in range(_MORE_LOOKS):
            wanted = [one for one in wanted if copies.is_half_saved(host, one)]
            if not wanted:
                break
            time.sleep(_INSTANT)
            failures = self._still(host, groups, wanted)
            wanted = [one for one in wanted if one.username not in failures]

    def _still(self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment]) -> dict[str, str]:
        """Freeze, copy, thaw. Whose copy failed, and why."""
        if not wanted:
            return {}
        accounts = {one.username: survey.student_account(host, one.username) for one in wanted}
        still = freeze.remembered(host)
        students = freeze.students(host, groups, [one for name, one in accounts.items() if name not in still])
        began = time.monotonic()

        def ready() -> None:
            nonlocal began
            _wait_until(self.round.at)
            began = time.monotonic()

        try:
            if any(name in still for name in accounts):
                freezing.Freezer(groups, freeze.on_demand(host)).look_again()
            with freezing.Freezer(groups, freeze.by_capture(host)).frozen(students, ready=ready) as ice:
                failures = _capture_in_parallel(host, wanted, accounts, ice)
        except HostError as error:
            return self._one_by_one(host, groups, wanted, accounts, error)
        self.round.pause += time.monotonic() - began
        log.info("%d students stood still for %.3f s", len(students), self.round.pause)
        # Some had so much that the time was up: the others, whose fault it is not, stand still once more.
        left = [one for one in wanted if failures.get(one.username) == _MELTED]
        if left and len(left) < len(wanted):
            failures = {who: why for who, why in failures.items() if why != _MELTED} | self._still(host, groups, left)
        return failures

    def _one_by_one(
        self,
        host: Host,
        groups: cgroups.Groups,
        wanted: Sequence[Moment],
        accounts: Mapping[str, Account],
        error: HostError,
    ) -> dict[str, str]:
        """Somebody could not be frozen: the others are; of that one everything is looked at, and it is said."""
        names = list(dict.fromkeys(one.username for one in wanted))
        if len(names) == 1:
            _wait_until(self.round.at)
            log.warning("%s: %s; captured while it ran", names[0], error.problem)
            failures: dict[str, str] = {}
            for one in wanted:
                try:
                    now = datetime.now(timezone.utc)
                    copies.keep(
                        host, one, accounts[one.username], now, remark=f"not frozen: {error.problem}", is_still=False
                    )
                except HostError as another:
                    failures[one.username] = another.problem
            return failures
        return {
            who: why
            for name in names
            for who, why in self._still(host, groups, [one for one in wanted if one.username == name]).items()
        }


def _capture_in_parallel(
    host: Host, wanted: Sequence[Moment], accounts: Mapping[str, Account], ice: freezing.Ice
) -> dict[str, str]:
    """A few forked processes of root's, each for its part of the class: while everybody waits, every fork counts."""
    now = datetime.now(timezone.utc)
    parts = [part for start in range(AT_ONCE) if (part := wanted[start::AT_ONCE])]
    running = [
        (part, workers.start(_ROOT, _capture_each, host, part, accounts, now, ice, keep=log_descriptors()))
        for part in parts
    ]
    failures: dict[str, str] = {}
    try:
        for part, worker in running:
            try:
                failures |= worker.result(freezing.LONGEST + copies.LONGEST)
            except NblauncherError as error:
                failures |= {one.username: error.problem for one in part}
    finally:
        for _part, worker in running:
            worker.stop()
    return failures


def _capture_each(
    host: Host, wanted: Sequence[Moment], accounts: Mapping[str, Account], captured: datetime, ice: freezing.Ice
) -> dict[str, str]:
    """Whose copy failed, and why. A copy that was not done before the ice melted is none."""
    failures: dict[str, str] = {}
    for one in wanted:
        if not ice.held:
            failures[one.username] = _MELTED
            continue
        try:
            copies.keep(host, one, accounts[one.username], captured, remark=ice.complaints.get(one.username, ""))
        except HostError as error:
            failures[one.username] = error.problem
        else:
            if not ice.held:
                copies.file_of(host, one).unlink(missing_ok=True)
                failures[one.username] = _MELTED
    return failures


def _wait_until(at: datetime) -> None:
    """By the clock, which may be set meanwhile."""
    while (left := (at - datetime.now(timezone.utc)).total_seconds()) > 0:
        time.sleep(min(left, _NAP))
