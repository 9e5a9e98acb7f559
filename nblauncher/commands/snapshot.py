"""snapshot: what everybody's material folder holds now, kept beside what it held before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nblauncher import keeping, material, memory, survey
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.host import Host
from nblauncher.ledger import Usage
from nblauncher.plan import Details, Phase, Plan, Report
from nblauncher.scope import ALL, Scope
from nblauncher.shares import Share
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

_STALL, _LONGEST = 15.0, 60.0
"""Seconds for one student: other commands wait meanwhile, and a student can stop our child again and again."""


@dataclass
class Run:
    """One round of snapshots. `free`: the contents that count for nobody, with their sizes."""

    time: datetime
    free: Mapping[str, int] = field(default_factory=dict)
    new: dict[str, int] = field(default_factory=dict)
    """How many files changed, by username."""
    short: dict[str, int] = field(default_factory=dict)
    """Bytes that the history of a student needs, by username, where the share is not enough."""


def prepare(host: Host, usernames: Sequence[str], *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware."""
    last = host.history.last_times()
    # A student whose folder took too long last time is behind the others, and keeps none of them from being kept.
    ordered = sorted(usernames, key=lambda name: -last.get(name, 0))
    return plan(ordered, survey.survey(host, usernames), now=now)


def plan(usernames: Sequence[str], facts: Facts, *, now: datetime) -> tuple[Plan, Run]:
    """One after the other: what makes room is forgotten before the next one's versions come in."""
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
        for username in host.ledger.members(host.settings.course):
            _forget_old(host, self.run, username)
        index = material.recall(host.paths.state / "material.json")
        self.run.free = host.history.free({one.sha256: one.size for one in index.items} if index else {})
        freed = host.contents.prune(host.history.contents())
        log.info("freed %d bytes", freed)


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
        """The new versions are on the disk before the student's oldest make room: a failure costs none."""
        account = survey.student_account(host, self.username)
        most = share_of(host)
        kept = keeping.keep(
            account,
            Scope(ALL, host.settings.material.target),
            host.settings.retrieve,
            host.contents,
            host.history.current(self.username, account.uid),
            share=Share(most, self.run.free),
            stall=_STALL,
            longest=_LONGEST,
        )
        changed = host.history.record(
            self.username,
            account.uid,
            self.run.time,
            kept.files,
            is_certainly_gone=kept.covers(),
            is_complete=not any(one.incomplete for one in kept.exclusions),
        )
        _forget_old(host, self.run, self.username)
        usage, gone = host.history.fit(self.username, most, refused=kept.refused_bytes)
        host.contents.forget(gone)
        self.run.new[self.username] = changed
        if usage.needed > most:
            self.run.short[self.username] = usage.needed
        size = sum(one.size for one in kept.files.values())
        about = work_details(len(kept.files), size, [one for one in kept.exclusions if one.incomplete])
        return {self.username: {**about, "changed": changed, "is_unchanged": not changed, **usage_details(usage, most)}}


def share_of(host: Host) -> int:
    """Bytes of the budget that are each student's."""
    return host.settings.history.budget // max(1, len(host.ledger.members(host.settings.course)))


def usage_details(usage: Usage, share: int) -> dict[str, Any]:
    """A student's part of the answers of `snapshot` and `status` (docs/reference.md)."""
    return {"history_bytes": usage.used, "history_share": share, "history_above_share": usage.needed > share}


def shortage_words(usage: Usage, share: int) -> str:
    """For `status`: that a student's versions do not fit, empty when they do."""
    if usage.needed <= share:
        return ""
    return f"versions need {memory.words(usage.needed)}, and the share of the history is {memory.words(share)}"


def summary(run: Run, report: Report, share: int) -> str:
    """How much is new, and whose share is not enough, in words."""
    changed = sum(1 for count in run.new.values() if count)
    files = sum(run.new.values())
    if not run.new:
        return "snapshot: nothing was kept." if report.failed else "snapshot: nothing to do."
    lines = [f"{len(run.new)} snapshots; {files} files changed, of {changed} students."]
    lines += [
        f"  {username}: {shortage_words(Usage(needed=needed), share)}; the oldest make room"
        for username, needed in run.short.items()
    ]
    return "\n".join(lines)


def _forget_old(host: Host, run: Run, username: str) -> None:
    settings = host.settings.history
    since = run.time - timedelta(days=settings.days)
    host.contents.forget(host.history.forget_old(username, most=settings.keep, since=since))
