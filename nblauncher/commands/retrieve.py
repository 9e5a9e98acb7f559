"""retrieve: all students' work into a new folder of the teacher's, published as a whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nblauncher.commands.deadlines import folders
from nblauncher.errors import HostError
from nblauncher.exchange.retrieve import collection, store
from nblauncher.exchange.retrieve.scope import ALL, CACHES, CHANGED, HOME, Scope
from nblauncher.exchange.retrieve.store import Staging
from nblauncher.ledger import Arrived, Retrieval
from nblauncher.model import Exclusion
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan, Report
from nblauncher.planning.survey import Facts
from nblauncher.server.class_files import PIP_PREFIX

AT_ONCE = 2
"""Homes read at the same time."""

LONGEST = 1800.0
"""Seconds that one student's work may take, even if the student keeps stopping and continuing our child."""
LONGEST_HOME = 6 * 3600.0
"""Of a whole home, before it is removed."""


@dataclass
class Run:
    """One retrieval in progress: the staging is opened by the first step and closed by the last."""

    time: datetime
    part: str = ""
    """Part of the folder's name that says which work it holds; empty: all work of all students."""
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    staging: Staging | None = None
    folder: str = ""
    """The published folder, or the one that already holds the same work."""
    is_new: bool = True

    def opened(self) -> Staging:
        if self.staging is None:
            raise HostError("the retrieval was not begun")
        return self.staging


def plan(usernames: Sequence[str], facts: Facts, *, takes_all: bool, now: datetime) -> tuple[Plan, Run]:
    """Collect from each of these students. `now` is aware, in the host's zone; it names the folder."""
    kind = ALL if takes_all else CHANGED
    wanted = [name for name in usernames if name in facts.members]
    run = Run(now, store.students_part(wanted, facts.members))
    return Plan(phases(run, dict.fromkeys(wanted, kind)), notes(usernames, facts)), run


def prepare(host: Host, usernames: Sequence[str], *, takes_all: bool, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan."""
    return plan(usernames, survey.survey(host, usernames), takes_all=takes_all, now=now)


def phases(run: Run, kinds: Mapping[str, str], *, always_publishes: bool = False) -> tuple[Phase, ...]:
    """Open the staging, collect from each student in the scope given, publish."""
    if not kinds:
        return ()
    collects = tuple(CollectWork(name, kind, run, tells_news=not always_publishes) for name, kind in kinds.items())
    return (
        Phase("open the retrieval", (OpenStaging(run),)),
        Phase("retrieve", collects, parallel=AT_ONCE),
        Phase("publish", (Publish(run, may_discard=not always_publishes),)),
    )


def notes(usernames: Sequence[str], facts: Facts) -> tuple[str, ...]:
    """A note for each requested student without an account in the course."""
    return tuple(
        f"{name} is in the roster but not in the course yet; run `nblauncher setup`"
        for name in usernames
        if name not in facts.members
    )


@dataclass(frozen=True)
class OpenStaging:
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "begin a retrieval"

    def apply(self, host: Host) -> None:
        self.run.staging = store.open_staging(host.owner, host.settings.retrieve.target, self.run.time)


@dataclass(frozen=True)
class CollectWork(ForOne):
    """The student's child reads, the teacher's child writes and verifies."""

    kind: str
    run: Run
    tells_news: bool = True

    def describe(self) -> str:
        return f"retrieve {'the whole home' if self.kind == HOME else 'the work'} of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.student_account(host, self.username)
        last = host.course_ledger.last_retrievals(self.kind).get(self.username)
        collected = collection.collect(
            account,
            host.owner,
            self.run.opened(),
            scope_of(host, self.username, self.kind),
            host.settings.retrieve,
            previous=last.folder if last else "",
            longest=LONGEST_HOME if self.kind == HOME else LONGEST,
        )
        host.course_ledger.record_arrived(
            self.run.token,
            Arrived(
                self.username,
                account.uid,
                self.kind,
                collected.digest,
                collected.listing,
                not collected.work.is_incomplete,
            ),
        )
        details = work_details(collected.work.files, collected.work.bytes, collected.work.exclusions)
        if self.tells_news:
            details |= {"changed": collected.changed, "gone": collected.gone, "since": collected.since or None}
        return {self.username: details}


@dataclass(frozen=True)
class Publish:
    """Rename the staging into place, unless (`may_discard`) the last retrieval already holds exactly this."""

    run: Run
    may_discard: bool
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "publish the retrieval"

    def apply(self, host: Host) -> Mapping[str, Details]:
        arrived = host.course_ledger.arrived(self.run.token)
        staging = self.run.opened()
        same = _same_as_before(host, arrived, is_full=not self.run.part) if self.may_discard else ""
        if same or not arrived:
            store.discard(host.owner, staging)
            if same and not self.run.part:
                store.lead_to(host.owner, staging.target, same)
            self.run.folder, self.run.is_new = same, False
            return {name: {"is_unchanged": True} for name in arrived}
        self.run.folder = store.publish(host.owner, staging, self.run.part)
        host.course_ledger.record_retrievals(
            Retrieval(work.scope, self.run.folder, work.username, work.uid, work.digest, work.is_complete)
            for work in arrived.values()
        )
        return {}


def scope_of(host: Host, username: str, kind: str) -> Scope:
    """What is collected from this student's home. A renamed material folder is searched for."""
    sought = folders.sought(host, username, "") if kind != HOME else None
    return Scope(
        kind,
        host.settings.material.target,
        host.course_ledger.handed_out(username, "material"),
        (*CACHES, PIP_PREFIX),
        sought if sought and sought.files else None,
    )


def work_details(count: int, size: int, exclusions: Sequence[Exclusion]) -> dict[str, Any]:
    """A student's part of the report (docs/reference.md, JSON)."""
    return {
        "files": count,
        "bytes": size,
        "exceptions": [
            {"path": exclusion.path, "reason": exclusion.reason, "incomplete": exclusion.incomplete}
            for exclusion in exclusions
        ],
    }


def summary(run: Run, host: Host, report: Report) -> str:
    """Where the work is, in words."""
    if not run.folder:
        return "retrieve: nothing was retrieved." if report.failed else "retrieve: nothing to do."
    where = host.settings.retrieve.target / run.folder
    if run.is_new:
        return f"The work is in {where}"
    return f"{'No other work' if report.failed else 'No work'} has changed since {where}; nothing to do."


def _same_as_before(host: Host, arrived: Mapping[str, Arrived], *, is_full: bool) -> str:
    """The folder of the last complete retrieval if it still exists and holds exactly what arrived now; else empty.

    A retrieval of the whole class (`is_full`) only matches a folder that is named as one.
    """
    last = {
        name: found
        for name, work in arrived.items()
        if (found := host.course_ledger.last_retrievals(work.scope).get(name)) is not None
    }
    folders = {work.folder for work in last.values()}
    if len(last) != len(arrived) or len(folders) != 1:
        return ""
    if any(
        not last[name].is_complete or not work.is_complete or last[name].digest != work.digest
        for name, work in arrived.items()
    ):
        return ""
    folder = folders.pop()
    if is_full and not store.is_full(folder):
        return ""
    stands = store.standing(host.owner, host.settings.retrieve.target, folder, arrived)
    return folder if stands == frozenset(arrived) else ""
