"""The moment of a deadline: copies beforehand, everybody stands still, what changed is copied, everybody goes on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from nblauncher import cgroups, freezing, interruption, moments, survey, workers
from nblauncher.commands import copies, freeze
from nblauncher.commands.copies import Round
from nblauncher.commands.pending import pending
from nblauncher.commands.retrieve import AT_ONCE
from nblauncher.deadlines import Moment
from nblauncher.errors import HostError, NblauncherError
from nblauncher.host import Host
from nblauncher.model import Account
from nblauncher.objects import ObjectStore
from nblauncher.plan import Details, SomeFailed, log_descriptors

log = logging.getLogger(__name__)

_ROOT = Account("root", 0, 0, Path("/root"))
_NAP = 0.5
_MORE_LOOKS = 4
_INSTANT = 0.25
"""Seconds in which a save that was caught in the middle comes to its end."""
_LEAST_EARLY = 0.5
"""Seconds in which a copy can be worth while."""
_MELTED = "the class ran again before the copy was done"


@dataclass(frozen=True)
class EarlyCopy:
    """As the student, while the class runs; what is copied now need not be copied while everybody waits.

    No more than that: a student who hinders it, or has too much, is captured at the moment all the same.
    """

    moment: Moment
    until: datetime
    """Nobody may take the others' time: what is not copied by then is copied the next time."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.moment.username,)

    def describe(self) -> str:
        return f"copy {copies.what(self.moment.deadline)} of {self.moment.username} beforehand"

    def apply(self, host: Host) -> Mapping[str, Details]:
        """`has_had_its_turn`: not where there was no time left."""
        left = (self.until - datetime.now(timezone.utc)).total_seconds()
        known = copies.load(host, self.moment)
        if known and known.captured:
            return {self.moment.username: {"has_had_its_turn": True}}
        if left <= _LEAST_EARLY:
            return {}
        try:
            account = account_of(host, self.moment.username)
            copies.keep(host, self.moment, account, None, longest=left)
        except HostError as error:
            log.warning("%s was not copied beforehand: %s", self.moment.username, error.problem)
        return {self.moment.username: {"has_had_its_turn": True}}


@dataclass(frozen=True)
class CaptureAll:
    """At the moment: everybody stands still until what changed is copied."""

    round: Round
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"capture the work of {len(self.usernames)} students at {moments.words(self.round.at)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        # What takes long for many students comes before the moment; after it only what may have changed meanwhile.
        missing = [one for one in self.round.moments if one.username in self.usernames and not is_captured(host, one)]
        accounts, failures = _accounts_of(host, missing)
        there = [one for one in missing if one.username in accounts]
        groups = freeze.groups_of(host)
        if freezing.can_freeze_groups(groups):
            failures |= self._still(host, groups, there, accounts)
        else:
            for name in dict.fromkeys(one.username for one in there):
                failures |= self._still(host, groups, [one for one in there if one.username == name], accounts)
        _wait_until(self.round.at)  # where nobody could be frozen
        wanted = self._still_wanted(host, missing)
        failures = {one.username: failures[one.username] for one in wanted if one.username in failures}
        self._look_again(host, groups, [one for one in wanted if one.username not in failures], accounts)
        ObjectStore(copies.objects(host)).sync()
        if failures:
            self._remember(host, failures)
            raise SomeFailed(failures)
        taken = {one.username for one in wanted}
        return {name: {"is_unchanged": True} for name in self.usernames if name not in taken}

    def _still_wanted(self, host: Host, wanted: Sequence[Moment]) -> list[Moment]:
        """Since the plan was made a student may have been given more time or removed, or the moment cancelled."""
        current = {copies.moment_id(one) for one in pending(host)[0]}
        dropped = [one for one in wanted if copies.moment_id(one) not in current]
        for one in dropped:
            log.info("%s is not captured at %s any more", one.username, moments.short(one.at))
        return [one for one in wanted if one not in dropped]

    def _remember(self, host: Host, failures: Mapping[str, str]) -> None:
        """Why, for `status` and the others who ask; that a moment was missed they see without it."""
        reasons = {
            copies.moment_id(one): failures[one.username]
            for one in self.round.moments
            if one.username in failures and not is_captured(host, one)
        }
        try:
            host.course_ledger.record_failed_captures(reasons)
        except HostError as error:
            log.error("the reasons are not in the ledger: %s", error.problem)  # whose work was captured must go on

    def _look_again(
        self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment], accounts: Mapping[str, Account]
    ) -> None:
        """Who was caught in the middle of a save is let go on for an instant and captured again, a few times.

        Where that fails the first copy stands.
        """
        for _ in range(_MORE_LOOKS):
            wanted = [one for one in wanted if copies.is_half_saved(host, one)]
            if not wanted:
                break
            time.sleep(_INSTANT)
            failures = self._still(host, groups, wanted, accounts)
            wanted = [one for one in wanted if one.username not in failures]

    def _still(
        self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment], accounts: Mapping[str, Account]
    ) -> dict[str, str]:
        """Freeze, copy, thaw. Whose copy failed, and why."""
        if not wanted:
            return {}
        names = dict.fromkeys(one.username for one in wanted)
        still = freeze.remembered(host)
        students = freeze.students(host, groups, [accounts[name] for name in names if name not in still])
        began = time.monotonic()

        def ready() -> None:
            nonlocal began
            _wait_until(self.round.at)
            began = time.monotonic()

        try:
            if any(name in still for name in names):
                freezing.Freezer(groups, freeze.on_demand(host)).look_again()
            with freezing.Freezer(groups, freeze.by_capture(host)).frozen(students, ready=ready) as ice:
                # Only now: until the last instant a student may be given more time, or removed.
                wanted = self._still_wanted(host, wanted)
                failures = _capture_in_parallel(host, wanted, accounts, ice)
        except HostError as error:
            return self._one_by_one(host, groups, wanted, accounts, error)
        self.round.pause += time.monotonic() - began
        log.info("%d students stood still for %.3f s", len(students), self.round.pause)
        # Some had so much that the time was up: the others, whose fault it is not, stand still once more.
        left = [one for one in wanted if failures.get(one.username) == _MELTED]
        if left and len(left) < len(wanted):
            failures = {who: why for who, why in failures.items() if why != _MELTED}
            failures |= self._still(host, groups, left, accounts)
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
            for one in self._still_wanted(host, wanted):
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
            for who, why in self._still(host, groups, [one for one in wanted if one.username == name], accounts).items()
        }


def is_captured(host: Host, moment: Moment) -> bool:
    known = copies.load(host, moment)
    return known is not None and known.captured is not None


def account_of(host: Host, username: str) -> Account:
    """The account whose work may be captured now. HostError says why it is not the student's, or has no home."""
    account = survey.student_account(host, username)
    claim = host.ledger.claim(username)
    if claim is None or claim.account.uid != account.uid:
        raise HostError("the account has another uid than the one that was recorded")
    try:
        home = os.lstat(account.home)
    except FileNotFoundError:
        raise HostError(f"the home {account.home} is not there (is it mounted?)") from None
    except PermissionError:
        return account  # a file system that root may not look at (NFS); the student's child finds what there is
    if home.st_uid != account.uid:
        raise HostError(f"{account.home} is not the student's (is it mounted?)")
    return account


def _accounts_of(host: Host, wanted: Sequence[Moment]) -> tuple[dict[str, Account], dict[str, str]]:
    """By username: the account, or why there is none. One student's failure is one student's."""
    accounts: dict[str, Account] = {}
    failures: dict[str, str] = {}
    for name in dict.fromkeys(one.username for one in wanted):
        try:
            accounts[name] = account_of(host, name)
        except HostError as error:
            failures[name] = error.problem
    return accounts, failures


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
        interruption.sleep(min(left, _NAP))
