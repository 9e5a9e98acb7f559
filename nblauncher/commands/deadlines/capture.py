"""A capture at a deadline: copy beforehand, freeze the class, copy what changed, thaw."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from nblauncher.commands.deadlines import copies, freeze, job_freezer
from nblauncher.commands.deadlines.copies import Round
from nblauncher.commands.deadlines.job_freezer import JobFreezer
from nblauncher.commands.deadlines.pending import pending
from nblauncher.commands.retrieve import AT_ONCE
from nblauncher.config import times
from nblauncher.config.deadlines import Moment
from nblauncher.errors import HostError, NblauncherError
from nblauncher.exchange.objects import ObjectStore
from nblauncher.isolation import cgroups, freezer
from nblauncher.model import ROOT, Account
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, SomeFailed, log_descriptors
from nblauncher.system import interruption, workers

log = logging.getLogger(__name__)

_NAP = 0.5
_MORE_LOOKS = 4
_INSTANT = 0.25
"""Seconds that a half-written save gets to finish."""
_LEAST_EARLY = 0.5
"""Seconds below which an early copy is not worth starting."""
_THAWED_EARLY = "the class ran again before the copy was done"


@dataclass(frozen=True)
class EarlyCopy:
    """Copy as the student while the class runs, so that less is left to copy while it is frozen.

    This is only an optimisation: a student who obstructs it, or has too much, is captured at the deadline all the same.
    """

    moment: Moment
    until: datetime
    """What is not copied by then is copied the next time, so that no student uses up the others' time."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.moment.username,)

    def describe(self) -> str:
        return f"copy {copies.what(self.moment.deadline)} of {self.moment.username} beforehand"

    def apply(self, host: Host) -> Mapping[str, Details]:
        """Reports `has_had_its_turn` unless there was no time left to try."""
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
    """At the moment: freeze all students until what changed is copied."""

    round: Round
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"capture the work of {len(self.usernames)} students at {times.words(self.round.at)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        # Do what is slow for many students before the moment; after it only check what may have changed.
        missing = [
            moment
            for moment in self.round.moments
            if moment.username in self.usernames and not copies.is_captured(host, moment)
        ]
        accounts, failures = _accounts_of(host, missing)
        there = [moment for moment in missing if moment.username in accounts]
        groups = freeze.groups_of(host)
        # Without a freezer one student's processes are stopped at a time; jobs would each take seconds for that.
        if freezer.can_freeze_groups(groups) or freeze.on_a_cluster(host):
            failures |= self._frozen_copies(host, groups, there, accounts)
        else:
            for name in dict.fromkeys(moment.username for moment in there):
                failures |= self._frozen_copies(
                    host, groups, [moment for moment in there if moment.username == name], accounts
                )
        _wait_until(self.round.at)  # not yet awaited if no student could be frozen
        wanted = self._still_wanted(host, missing)
        failures = {moment.username: failures[moment.username] for moment in wanted if moment.username in failures}
        self._look_again(host, groups, [moment for moment in wanted if moment.username not in failures], accounts)
        freeze.keep_watch(host)  # over jobs that could not be thawed, because Slurm did not answer
        ObjectStore(copies.objects(host)).sync()
        if failures:
            self._remember(host, failures)
            raise SomeFailed(failures)
        taken = {moment.username for moment in wanted}
        return {name: {"is_unchanged": True} for name in self.usernames if name not in taken}

    def _still_wanted(self, host: Host, wanted: Sequence[Moment]) -> list[Moment]:
        """Since planning, a student may have got more time or been removed, or the moment been cancelled."""
        current = {copies.moment_id(moment) for moment in pending(host)[0]}
        dropped = [moment for moment in wanted if copies.moment_id(moment) not in current]
        for moment in dropped:
            log.info("%s is no longer captured at %s", moment.username, times.short(moment.at))
        return [moment for moment in wanted if moment not in dropped]

    def _remember(self, host: Host, failures: Mapping[str, str]) -> None:
        """Record the reasons for `status` and other commands; they can tell without it that a moment was missed."""
        reasons = {
            copies.moment_id(moment): failures[moment.username]
            for moment in self.round.moments
            if moment.username in failures and not copies.is_captured(host, moment)
        }
        try:
            host.course_ledger.record_failed_captures(reasons)
        except HostError as error:
            log.error(
                "the reasons are not in the ledger: %s", error.problem
            )  # the captured work must still be published

    def _look_again(
        self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment], accounts: Mapping[str, Account]
    ) -> None:
        """Let students finish a save that the freeze interrupted, and capture them again, a few times.

        Where that fails the first copy stands.
        """
        for _ in range(_MORE_LOOKS):
            wanted = [moment for moment in wanted if copies.is_half_saved(host, moment)]
            if not wanted:
                break
            time.sleep(_INSTANT)
            failures = self._frozen_copies(host, groups, wanted, accounts)
            wanted = [moment for moment in wanted if moment.username not in failures]

    def _frozen_copies(
        self, host: Host, groups: cgroups.Groups, wanted: Sequence[Moment], accounts: Mapping[str, Account]
    ) -> dict[str, str]:
        """Freeze, copy, thaw. Failed copies: username → reason."""
        if not wanted:
            return {}
        names = dict.fromkeys(moment.username for moment in wanted)
        frozen = freeze.remembered(host)
        students = freeze.students(host, groups, [accounts[name] for name in names if name not in frozen])
        jobs = freeze.jobs_by_capture(host) if freeze.on_a_cluster(host) else None
        began = time.monotonic()

        def ready() -> None:
            nonlocal began
            if jobs is not None:
                _wait_until(self.round.at - timedelta(seconds=job_freezer.LEAD))
                jobs.begin([student.username for student in students])
            _wait_until(self.round.at)
            began = time.monotonic()

        try:
            if any(name in frozen for name in names):
                freezer.Freezer(groups, freeze.on_demand(host)).look_again()
            with freezer.Freezer(groups, freeze.by_capture(host), jobs).frozen(students, ready=ready) as hold:
                # Check only now: until the last instant a student may be given more time or be removed.
                wanted = self._still_wanted(host, wanted)
                failures = _capture_in_parallel(host, wanted, accounts, hold)
                if jobs is not None:
                    _tell_what_ran(host, [one for one in wanted if one.username not in failures], accounts, jobs)
        except HostError as error:
            return self._without_those(host, groups, wanted, accounts, error)
        self.round.pause += time.monotonic() - began
        log.info("%d students were frozen for %.3f s", len(students), self.round.pause)
        # Some students had so much that time ran out. Freeze the others again: it was not their fault.
        left = [moment for moment in wanted if failures.get(moment.username) == _THAWED_EARLY]
        if left and len(left) < len(wanted):
            failures = {name: why for name, why in failures.items() if why != _THAWED_EARLY}
            failures |= self._frozen_copies(host, groups, left, accounts)
        return failures

    def _without_those(
        self,
        host: Host,
        groups: cgroups.Groups,
        wanted: Sequence[Moment],
        accounts: Mapping[str, Account],
        error: HostError,
    ) -> dict[str, str]:
        """A student could not be frozen: freeze the others; capture that one while running, and say so. By halves: in a
        class on a cluster each freeze takes seconds, and one student must not keep everybody else waiting for minutes.
        """
        names = list(dict.fromkeys(moment.username for moment in wanted))
        failures: dict[str, str] = {}
        if len(names) == 1:
            _wait_until(self.round.at)
            log.warning("%s: %s; captured while it ran", names[0], error.problem)
            for moment in self._still_wanted(host, wanted):
                try:
                    now = datetime.now(timezone.utc)
                    copies.keep(
                        host,
                        moment,
                        accounts[moment.username],
                        now,
                        remark=f"not frozen: {error.problem}",
                        is_still=False,
                    )
                except HostError as another:
                    failures[moment.username] = another.problem
            return failures
        first = frozenset(names[: len(names) // 2])
        for is_first in (True, False):
            half = [moment for moment in wanted if (moment.username in first) is is_first]
            failures |= self._frozen_copies(host, groups, half, accounts)
        return failures


def account_of(host: Host, username: str) -> Account:
    """The student's account, ready to capture from. HostError when it is not the recorded one or has no home."""
    account = survey.student_account(host, username)
    claim = host.ledger.claim(username)
    if claim is None or claim.account.uid != account.uid:
        raise HostError("the account has a different uid than the one that was recorded")
    try:
        home = os.lstat(account.home)
    except FileNotFoundError:
        raise HostError(f"the home {account.home} does not exist (is it mounted?)") from None
    except PermissionError:
        return account  # a file system that root may not read (NFS); the student's child will see what there is
    if home.st_uid != account.uid:
        raise HostError(f"{account.home} is not the student's (is it mounted?)")
    return account


def _accounts_of(host: Host, wanted: Sequence[Moment]) -> tuple[dict[str, Account], dict[str, str]]:
    """By username: the account, or why there is none. One student's failure does not stop the others."""
    accounts: dict[str, Account] = {}
    failures: dict[str, str] = {}
    for name in dict.fromkeys(moment.username for moment in wanted):
        try:
            accounts[name] = account_of(host, name)
        except HostError as error:
            failures[name] = error.problem
    return accounts, failures


def _capture_in_parallel(
    host: Host, wanted: Sequence[Moment], accounts: Mapping[str, Account], hold: freezer.Freeze
) -> dict[str, str]:
    """Root's forked processes share the class between them: while it is frozen, every fork costs time."""
    now = datetime.now(timezone.utc)
    parts = [part for start in range(AT_ONCE) if (part := wanted[start::AT_ONCE])]
    running = [
        (part, workers.start(ROOT, _capture_each, host, part, accounts, now, hold, keep=log_descriptors()))
        for part in parts
    ]
    failures: dict[str, str] = {}
    try:
        for part, worker in running:
            try:
                failures |= worker.result(freezer.LONGEST + copies.LONGEST)
            except NblauncherError as error:
                failures |= {moment.username: error.problem for moment in part}
    finally:
        for _part, worker in running:
            worker.stop()
    return failures


def _tell_what_ran(host: Host, captured: Sequence[Moment], accounts: Mapping[str, Account], jobs: JobFreezer) -> None:
    """Add to the copies what of a student's ran on the cluster while the files were copied."""
    found = jobs.look({moment.username: accounts[moment.username].uid for moment in captured})
    for moment in captured:
        if words := found.get(moment.username):
            log.warning("%s: %s", moment.username, words)
            copies.add_remark(host, moment, f"not frozen: {words}")


def _capture_each(
    host: Host, wanted: Sequence[Moment], accounts: Mapping[str, Account], captured: datetime, hold: freezer.Freeze
) -> dict[str, str]:
    """Failed copies: username → reason. A copy that was not finished while the class was frozen is discarded."""
    failures: dict[str, str] = {}
    for moment in wanted:
        if hold.expired:
            failures[moment.username] = _THAWED_EARLY
            continue
        running = hold.running.get(moment.username, "")
        remark = f"not frozen: {running}" if running else hold.complaints.get(moment.username, "")
        try:
            copies.keep(host, moment, accounts[moment.username], captured, remark=remark, is_still=not running)
        except HostError as error:
            failures[moment.username] = error.problem
        else:
            if hold.expired:
                copies.file_of(host, moment).unlink(missing_ok=True)
                failures[moment.username] = _THAWED_EARLY
    return failures


def _wait_until(at: datetime) -> None:
    """By the wall clock, which may be set meanwhile."""
    while (left := (at - datetime.now(timezone.utc)).total_seconds()) > 0:
        interruption.sleep(min(left, _NAP))
