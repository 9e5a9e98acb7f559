"""snapshot: what everybody's material folder holds now, kept beside what it held before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nblauncher import keeping, survey
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.host import Host
from nblauncher.plan import Details, Phase, Plan, Report
from nblauncher.scope import ALL, Scope
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

_FORGOTTEN_AT_A_TIME = 20
_STALL, _LONGEST = 15.0, 60.0
"""Seconds for one student: other commands wait meanwhile, and a student can stop our child again and again."""


@dataclass
class Run:
    """One round of snapshots; `used` are the bytes of all contents on the disk."""

    time: datetime
    used: int = 0
    new: dict[str, int] = field(default_factory=dict)
    """How many files changed, by username."""


def prepare(host: Host, usernames: Sequence[str], *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware."""
    return plan(usernames, survey.survey(host, usernames), now=now)


def plan(usernames: Sequence[str], facts: Facts, *, now: datetime) -> tuple[Plan, Run]:
    """One after the other, so that the budget is one account."""
    run = Run(now)
    wanted = [name for name in usernames if name in facts.members]
    if not wanted:
        return Plan((), notes(usernames, facts)), run
    phases = (
        Phase("make room", (MakeRoom(run),)),
        Phase("snapshots", tuple(TakeSnapshot(name, run) for name in wanted)),
    )
    return Plan(phases, notes(usernames, facts)), run


@dataclass(frozen=True)
class MakeRoom:
    """Forget what is too old, and what a killed run left."""

    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "forget snapshots that are too old"

    def apply(self, host: Host) -> None:
        settings = host.settings.history
        since = self.run.time - timedelta(days=settings.days)
        for username in host.ledger.members(host.settings.course):
            host.history.forget_old(username, most=settings.keep, since=since)
        _sweep(host, self.run)


@dataclass(frozen=True)
class TakeSnapshot:
    username: str
    run: Run

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"snapshot of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        kept = self._keep(host)
        while (short := self.run.used + kept.new_bytes + kept.refused_bytes - host.settings.history.budget) > 0:
            has_room = _forget_until(host, self.run, short)
            kept = self._keep(host)  # what was kept before is in no snapshot yet, and was swept away
            if not has_room:
                break
        account = survey.student_account(host, self.username)
        changed = host.history.record(
            self.username,
            account.uid,
            self.run.time,
            kept.files,
            is_certainly_gone=kept.covers(),
            is_complete=not any(one.incomplete for one in kept.exclusions),
        )
        self.run.used += kept.new_bytes
        self.run.new[self.username] = changed
        size = sum(one.size for one in kept.files.values())
        about = work_details(len(kept.files), size, [one for one in kept.exclusions if one.incomplete])
        return {self.username: {**about, "changed": changed, "is_unchanged": not changed}}

    def _keep(self, host: Host) -> keeping.Kept:
        account = survey.student_account(host, self.username)
        left = host.settings.history.budget - self.run.used

        def has_room(size: int) -> bool:
            nonlocal left
            if size > left:
                return False
            left -= size
            return True

        known = host.history.current(self.username, account.uid)
        scope = Scope(ALL, host.settings.material.target)
        limits = host.settings.retrieve
        return keeping.keep(
            account, scope, limits, host.contents, known, has_room=has_room, stall=_STALL, longest=_LONGEST
        )


def summary(run: Run, report: Report) -> str:
    """How much is new, in words."""
    changed = sum(1 for count in run.new.values() if count)
    files = sum(run.new.values())
    if not run.new:
        return "snapshot: nothing was kept." if report.failed else "snapshot: nothing to do."
    return f"{len(run.new)} snapshots; {files} files changed, of {changed} students."


def _forget_until(host: Host, run: Run, short: int) -> bool:
    """Forget the oldest snapshots until so many bytes are free; False when there is nothing more to forget."""
    wanted = run.used - short
    while run.used > wanted:
        if not host.history.forget_oldest(_FORGOTTEN_AT_A_TIME):
            return False
        _sweep(host, run)
    return True


def _sweep(host: Host, run: Run) -> None:
    """Delete what no snapshot has any more. The ledger comes first: a kept version never loses its content."""
    freed = host.contents.prune(host.history.contents())
    run.used = host.contents.size()
    log.info("freed %d bytes, %d in use", freed, run.used)
