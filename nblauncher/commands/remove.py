"""remove: retrieve, verify, then delete what we made, and nothing that was not verified in this run."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from nblauncher.commands import retrieve
from nblauncher.commands.cleanup import DropFromClass, EndCourse, LeaveCourse
from nblauncher.commands.deletion import (
    BeginSearch,
    DeleteAccount,
    DeleteHome,
    DemandComplete,
    DiscardAccount,
    EndProcesses,
    EndSearch,
    FindOwners,
    ForgetStudents,
    LockAccount,
    ReclaimAccount,
    RefuseChanged,
    Search,
)
from nblauncher.commands.grading import locks
from nblauncher.commands.retrieve import Run
from nblauncher.commands.running import shutdown
from nblauncher.errors import InputError
from nblauncher.exchange import homes
from nblauncher.exchange.retrieve import store
from nblauncher.exchange.retrieve.scope import ALL, HOME
from nblauncher.model import AccountState
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan, Report, StudentReport
from nblauncher.planning.survey import Facts
from nblauncher.printable import printable
from nblauncher.system import leftovers

log = logging.getLogger(__name__)

_MOST_LEFT = 50

_AT_ONCE = 2 * (os.cpu_count() or 1)
"""Homes deleted at the same time: much of it is waiting for disks and for processes that start."""


def plan(
    usernames: Sequence[str],
    facts: Facts,
    *,
    claimed: frozenset[str],
    despite_incomplete: frozenset[str],
    held: frozenset[str] = frozenset(),
    now: datetime,
) -> tuple[Plan, Run]:
    """Which students are deleted with account and home, which only leave the course, and in which order.

    `claimed`: accounts that were changed by hand and that the teacher says are ours (`--claim`). `held`: students with
    a port in the running class. InputError for a name in one of the options that is not among `usernames`.
    """
    _refuse_strangers(usernames, claimed, despite_incomplete)
    students = _sort(usernames, facts, claimed, despite_incomplete)
    run = Run(now, "-".join(filter(None, ("removed", store.students_part(students.members, facts.members)))))
    search, present = Search(), tuple(students.present)
    retrieval = retrieve.phases(run, students.scopes, always_publishes=True)
    return (
        Plan(
            (
                # Check that the store is writable before locking any account.
                *retrieval[:1],
                Phase("stop servers", shutdown.steps(students.members) if students.members else ()),
                Phase("claim accounts", tuple(map(ReclaimAccount, students.reclaimed))),
                Phase("lock accounts", tuple(map(LockAccount, students.present))),
                Phase("end processes", tuple(map(EndProcesses, students.present))),
                # All of their processes are gone: nothing is added. Beside the retrieval, which waits for disks.
                Phase("look outside", (BeginSearch(present, search),) if present else ()),
                *retrieval[1:],
                *_deletion(students, run, despite_incomplete, search),
                Phase("the running class", (DropFromClass(),) if held - frozenset(students.staying) else ()),
                Phase("end the course", (EndCourse(),) if facts.record is not None and not students.staying else ()),
            ),
            _notes(usernames, facts, students.forgotten),
        ),
        run,
    )


@dataclass(frozen=True)
class _Students:
    """The students, sorted by what happens to them."""

    members: Sequence[str]
    """All of the requested ones that are in the course."""
    present: Sequence[str]
    """Account and home are deleted."""
    half_made: Sequence[str]
    """The account is discarded; it was never used."""
    forgotten: Sequence[str]
    """Only the course forgets them: the account is gone, a guest's, or another course's too."""
    kept: Sequence[str]
    """The account was changed by hand and stays, after the work was retrieved."""
    staying: Sequence[str]
    """Members of the course after this."""
    reclaimed: Sequence[str]
    home_is_gone: Collection[str]
    scopes: Mapping[str, str]
    """username → how much of the home is retrieved."""


def _sort(
    usernames: Sequence[str], facts: Facts, claimed: frozenset[str], despite_incomplete: frozenset[str]
) -> _Students:
    members = [name for name in usernames if name in facts.members]
    deleted = [name for name in members if _is_deletable(name, facts, claimed)]
    kept = [name for name in members if _is_changed(name, facts, claimed)]
    leaving = [name for name in members if name not in deleted and name not in kept]
    gone = [name for name in deleted if name not in facts.found]
    half_made = [name for name in deleted if name in facts.found and facts.state(name) is AccountState.HALF_MADE]
    present = [name for name in deleted if name in facts.found and name not in half_made]
    served = [name for name in leaving if facts.state(name) in (AccountState.COMPLETE, AccountState.CHANGED)]
    # A home that is merely not there may be a disk that is not mounted: only what we emptied ourselves may be gone.
    home_is_gone = {
        name
        for name in present
        if name in facts.without_home and (facts.claims[name].stage == "emptying" or name in despite_incomplete)
    }
    return _Students(
        members,
        present,
        half_made,
        forgotten=[*gone, *leaving],
        kept=kept,
        staying=[name for name in facts.members if name not in (*deleted, *leaving)],
        reclaimed=[name for name in present if facts.state(name) is AccountState.CHANGED],
        home_is_gone=home_is_gone,
        scopes={
            **{name: HOME for name in [*present, *kept] if name not in home_is_gone},
            **dict.fromkeys(served, ALL),
        },
    )


def _deletion(students: _Students, run: Run, despite_incomplete: frozenset[str], search: Search) -> tuple[Phase, ...]:
    """The first student's child still searches the shared folders: that home is deleted last."""
    present = tuple(students.present)
    judged = tuple(name for name in present if name in students.scopes)
    first, *others = (
        (DeleteHome(name, run, search, name in students.home_is_gone) for name in present) if present else (None,)
    )
    return (
        Phase("verify", (DemandComplete(judged, run, despite_incomplete),) if judged else ()),
        Phase("temporary folders", (FindOwners(search),) if present else ()),
        Phase("delete homes", tuple(filter(None, others)), parallel=_AT_ONCE),
        Phase("left outside", (EndSearch(present, search),) if present else ()),
        Phase("delete the first home", (first,) if first else ()),
        Phase("delete accounts", tuple(map(DeleteAccount, present))),
        Phase("forget", (ForgetStudents(present),) if present else ()),
        Phase("discard half-made accounts", tuple(map(DiscardAccount, students.half_made))),
        Phase("leave the course", tuple(map(LeaveCourse, students.forgotten))),
        Phase("keep", tuple(map(RefuseChanged, students.kept))),
    )


def prepare(
    host: Host, usernames: Sequence[str], claimed: frozenset[str], despite: frozenset[str], now: datetime
) -> tuple[Plan, Run]:
    """Survey and plan. BusyError when the course would end while it is graded."""
    if set(host.ledger.members(host.settings.course)) <= set(usernames):
        locks.refuse_in_use(host.settings.course, locks.serve_lock(host), locks.grading_lock(host))
    facts = survey.survey(host, usernames)
    held = frozenset(report.username for report in shutdown.reports(host))
    return plan(usernames, facts, claimed=claimed, despite_incomplete=despite, held=held, now=now)


def summary(run: Run, host: Host, report: Report) -> str:
    """How many were removed, where their work is, and what else was deleted; empty when nothing was done."""
    if not report.done and not run.folder:
        return ""
    count = len(report.done)
    lines = [f"Removed {count} {'student' if count == 1 else 'students'}."]
    if run.folder:
        lines.append(f"What was in the homes is in {host.settings.retrieve.target / run.folder}")
    others = [f"  {student.username}: {path}" for student in report.done for path in _deleted_elsewhere(student)]
    if others:
        lines += ["Also deleted:", *map(printable, others)]
    if left := [f"  {student.username}: {path}" for student in report.done for path in student.details.get("left", ())]:
        lines += ["Left in folders that others can write to. Check, then delete:", *map(printable, left[:_MOST_LEFT])]
        if len(left) > _MOST_LEFT:
            lines.append(f"  … and {len(left) - _MOST_LEFT} more (see --json)")
    if report.done:
        elsewhere = dict.fromkeys(leftovers.unsearched((host.settings.accounts.home, *homes.TEMPORARY)))
        if any(student.details.get("deleted") for student in report.done):
            elsewhere[str(host.settings.accounts.home)] = None
        elsewhere |= {path: None for student in report.done for path in student.details.get("not_searched", ())}
        if elsewhere:
            lines.append("Not searched; may still hold their files (`find FOLDER -xdev -nouser`):")
            lines += [f"  {printable(folder)}" for folder in elsewhere]
    return "\n".join(lines)


def _deleted_elsewhere(student: StudentReport) -> Sequence[str]:
    deleted: Sequence[str] = student.details.get("deleted", ())
    schedules: Sequence[str] = student.details.get("schedules", ())
    return [*schedules, *deleted[1:]]


def _refuse_strangers(usernames: Sequence[str], claimed: frozenset[str], despite_incomplete: frozenset[str]) -> None:
    options = {"--claim": claimed, "--despite-incomplete": despite_incomplete}
    problems = [
        f'{option}: there is no student "{printable(name)}"'
        for option, names in options.items()
        for name in sorted(names - frozenset(usernames))
    ]
    if problems:
        raise InputError(problems, "Nothing was changed.")


def _is_deletable(name: str, facts: Facts, claimed: frozenset[str]) -> bool:
    """Our account, in no other course, and either unchanged or claimed by the teacher; or already gone."""
    claim = facts.claims.get(name)
    if claim is None or claim.is_guest or name in facts.elsewhere:
        return False
    state = facts.state(name)
    return state in (AccountState.COMPLETE, AccountState.VANISHED, AccountState.HALF_MADE) or (
        state is AccountState.CHANGED and name in claimed
    )


def _is_changed(name: str, facts: Facts, claimed: frozenset[str]) -> bool:
    return facts.state(name) is AccountState.CHANGED and name not in claimed and name not in facts.elsewhere


def _notes(usernames: Sequence[str], facts: Facts, forgotten: Sequence[str]) -> tuple[str, ...]:
    why = {
        AccountState.GUEST: "a guest",
        AccountState.FOREIGN: "no longer an account we made",
        AccountState.VANISHED: "gone already",
        AccountState.HALF_MADE: "not made yet",
    }
    return (
        *(f"{name} is not in the course" for name in usernames if name not in facts.members),
        *(
            f"{name} is {why.get(facts.state(name), 'in another course as well')}: only forgotten here"
            for name in forgotten
        ),
    )
