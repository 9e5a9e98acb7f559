"""snapshot: keeps every student's material folder as it is now, beside the earlier versions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nblauncher.commands import history_share
from nblauncher.commands.retrieve import notes, work_details
from nblauncher.exchange.history import root_side
from nblauncher.exchange.retrieve.scope import ALL, Scope
from nblauncher.exchange.send import material
from nblauncher.ledger import Usage
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan, Report
from nblauncher.planning.survey import Facts
from nblauncher.system.storage_share import Share

log = logging.getLogger(__name__)

_STALL, _LONGEST = 15.0, 60.0
"""Seconds for one student: other commands wait meanwhile, and a student can keep stopping our child."""


@dataclass
class Run:
    """One round of snapshots. `free`: contents that count towards no student's share, with their sizes."""

    time: datetime
    free: Mapping[str, int] = field(default_factory=dict)
    new: dict[str, int] = field(default_factory=dict)
    """How many files changed, by username."""
    short: dict[str, int] = field(default_factory=dict)
    """Bytes that the history of a student needs, by username, where the share is not enough."""


def prepare(host: Host, usernames: Sequence[str], *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware."""
    last = host.history.last_times()
    # A folder that took too long last time comes last, so that the others are kept in any case.
    ordered = sorted(usernames, key=lambda name: -last.get(name, 0))
    return plan(ordered, survey.survey(host, usernames), now=now)


def plan(usernames: Sequence[str], facts: Facts, *, now: datetime) -> tuple[Plan, Run]:
    """One student after the other: room is made before the next one's versions come in."""
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
    """Delete what is too old, and what a killed run left."""

    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "delete snapshots that are too old"

    def apply(self, host: Host) -> None:
        for username in host.ledger.members(host.settings.course):
            _forget_old(host, self.run, username)
        index = material.recall(host.paths.state / "material.json")
        self.run.free = host.history.free({item.sha256: item.size for item in index.items} if index else {})
        freed = host.contents.prune(host.history.contents())
        log.info("freed %d bytes", freed)


@dataclass(frozen=True)
class TakeSnapshot(ForOne):
    run: Run

    def describe(self) -> str:
        return f"snapshot of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        """The new versions are on disk before the oldest are deleted: a failure loses none."""
        account = survey.student_account(host, self.username)
        most = history_share.of_each(host)
        kept = root_side.keep(
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
            is_complete=not any(exclusion.incomplete for exclusion in kept.exclusions),
        )
        _forget_old(host, self.run, self.username)
        usage, gone = host.history.fit(self.username, most, refused=kept.refused_bytes)
        host.contents.forget(gone)
        self.run.new[self.username] = changed
        if usage.needed > most:
            self.run.short[self.username] = usage.needed
        size = sum(stored.size for stored in kept.files.values())
        about = work_details(
            len(kept.files), size, [exclusion for exclusion in kept.exclusions if exclusion.incomplete]
        )
        return {
            self.username: {
                **about,
                "changed": changed,
                "is_unchanged": not changed,
                **history_share.details(usage, most),
            }
        }


def summary(run: Run, report: Report, share: int) -> str:
    """How much is new, and which students' shares are too small, in words."""
    changed = sum(1 for count in run.new.values() if count)
    files = sum(run.new.values())
    if not run.new:
        return "snapshot: nothing was kept." if report.failed else "snapshot: nothing to do."
    lines = [f"Took {len(run.new)} snapshots; {files} files of {changed} students changed."]
    lines += [
        f"  {username}: {history_share.words(Usage(needed=needed), share)}; the oldest are deleted"
        for username, needed in run.short.items()
    ]
    return "\n".join(lines)


def _forget_old(host: Host, run: Run, username: str) -> None:
    settings = host.settings.history
    since = run.time - timedelta(days=settings.days)
    host.contents.forget(host.history.forget_old(username, most=settings.keep, since=since))
