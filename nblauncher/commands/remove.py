"""remove: retrieve, verify, then delete what we made, and nothing that was not verified in this very run."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nblauncher import homes, leftovers, runtime_folders, store, survey
from nblauncher.commands import disks, retrieve, shutdown
from nblauncher.commands.forgetting import EndCourse, LeaveCourse, LetGo, forget_student
from nblauncher.commands.retrieve import Run
from nblauncher.errors import HostError, InputError
from nblauncher.host import Host
from nblauncher.model import Account, AccountState
from nblauncher.plan import Details, Phase, Plan, Report, SomeFailed, StudentReport
from nblauncher.printable import printable
from nblauncher.scope import ALL, HOME
from nblauncher.survey import Facts

log = logging.getLogger(__name__)

_MOST_LEFT = 50


def plan(
    usernames: Sequence[str],
    facts: Facts,
    *,
    claimed: frozenset[str],
    despite_incomplete: frozenset[str],
    held: frozenset[str] = frozenset(),
    now: datetime,
) -> tuple[Plan, Run]:
    """Who is deleted with account and home, who only leaves the course, and in which order it happens.

    `claimed`: accounts that were changed by hand and that the teacher says are ours (`--claim`). `held`: whose ports a
    running class holds. InputError for a name in one of the options that is not among `usernames`.
    """
    _refuse_strangers(usernames, claimed, despite_incomplete)
    shared = SharedFolders()
    members = [name for name in usernames if name in facts.members]
    run = Run(now, "-".join(filter(None, ("removed", store.students_part(members, facts.members)))))
    deleted = [name for name in members if _is_deletable(name, facts, claimed)]
    kept_by_hand = [name for name in members if _is_changed(name, facts, claimed)]
    leaving = [name for name in members if name not in deleted and name not in kept_by_hand]
    gone = [name for name in deleted if name not in facts.found]
    half_made = [name for name in deleted if name in facts.found and facts.state(name) is AccountState.HALF_MADE]
    present = [name for name in deleted if name in facts.found and name not in half_made]
    reclaimed = [name for name in present if facts.state(name) is AccountState.CHANGED]
    served = [name for name in leaving if facts.state(name) in (AccountState.COMPLETE, AccountState.CHANGED)]
    # A home that is merely not there may be a disk that is not mounted: only what we emptied ourselves may be gone.
    homeless = {
        name
        for name in present
        if name in facts.without_home and (facts.claims[name].stage == "emptying" or name in despite_incomplete)
    }
    kinds = {
        **{name: HOME for name in [*present, *kept_by_hand] if name not in homeless},
        **dict.fromkeys(served, ALL),
    }
    retrieval = retrieve.phases(run, kinds, always_publishes=True)
    judged = tuple(name for name in present if name in kinds)
    staying = [name for name in facts.members if name not in (*deleted, *leaving)]
    ends_course = facts.record is not None and not staying
    return (
        Plan(
            (
                # A store that cannot be written to must be found out before anybody is locked out.
                *retrieval[:1],
                Phase("stop servers", shutdown.steps(members) if members else ()),
                Phase("claim accounts", tuple(map(ReclaimAccount, reclaimed))),
                Phase("lock accounts", tuple(map(LockAccount, present))),
                Phase("end processes", tuple(map(EndProcesses, present))),
                *retrieval[1:],
                Phase("verify", (DemandComplete(judged, run, despite_incomplete),) if judged else ()),
                Phase("delete", tuple(DeleteStudent(name, run, shared, name in homeless) for name in present)),
                Phase("discard half-made accounts", tuple(map(DiscardAccount, half_made))),
                Phase("leave the course", tuple(map(LeaveCourse, [*gone, *leaving]))),
                Phase("keep", tuple(map(RefuseChanged, kept_by_hand))),
                Phase("the running class", (LetGo(),) if held - frozenset(staying) else ()),
                Phase("end the course", (EndCourse(),) if ends_course else ()),
            ),
            _notes(usernames, facts, [*gone, *leaving]),
        ),
        run,
    )


def prepare(
    host: Host, usernames: Sequence[str], claimed: frozenset[str], despite: frozenset[str], now: datetime
) -> tuple[Plan, Run]:
    """Survey and plan."""
    facts = survey.survey(host, usernames)
    held = frozenset(report.username for report in shutdown.reports(host))
    return plan(usernames, facts, claimed=claimed, despite_incomplete=despite, held=held, now=now)


def summary(run: Run, host: Host, report: Report) -> str:
    """How many are gone, where what was in their homes is, and what else was deleted; empty when nothing was done."""
    if not report.done and not run.folder:
        return ""
    count = len(report.done)
    lines = [f"{count} {'student' if count == 1 else 'students'} removed."]
    if run.folder:
        lines.append(f"What was in the homes is in {host.settings.retrieve.target / run.folder}")
    others = [f"  {student.username}: {path}" for student in report.done for path in _deleted_elsewhere(student)]
    if others:
        lines += ["Deleted outside of the homes:", *map(printable, others)]
    if left := [f"  {student.username}: {path}" for student in report.done for path in student.details.get("left", ())]:
        lines += ["Left where others may write, too; look, then delete:", *map(printable, left[:_MOST_LEFT])]
        if len(left) > _MOST_LEFT:
            lines.append(f"  … and {len(left) - _MOST_LEFT} more (see --json)")
    if report.done:
        elsewhere = dict.fromkeys(leftovers.unsearched((host.settings.accounts.home, *homes.TEMPORARY)))
        if any(student.details.get("deleted") for student in report.done):
            elsewhere[str(host.settings.accounts.home)] = None
        elsewhere |= {path: None for student in report.done for path in student.details.get("not_searched", ())}
        if elsewhere:
            lines.append("Not searched, and perhaps with files of theirs (`find FOLDER -xdev -nouser`):")
            lines += [f"  {printable(folder)}" for folder in elsewhere]
    return "\n".join(lines)


def _deleted_elsewhere(student: StudentReport) -> Sequence[str]:
    deleted: Sequence[str] = student.details.get("deleted", ())
    schedules: Sequence[str] = student.details.get("schedules", ())
    return [*schedules, *deleted[1:]]


@dataclass(frozen=True)
class ReclaimAccount:
    """The account was changed by hand, and the teacher says that it is ours (`--claim`)."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"claim account {self.username}, which was changed by hand"

    def apply(self, host: Host) -> None:
        host.accounts.reclaim(survey.claimed_account(host, self.username), locks=host.locks)


@dataclass(frozen=True)
class DiscardAccount:
    """A crash in setup left it half made; nobody has ever used it."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"discard half-made account {self.username}"

    def apply(self, host: Host) -> None:
        host.accounts.discard(survey.claimed_account(host, self.username), locks=host.locks)
        forget_student(host, self.username)


@dataclass(frozen=True)
class LockAccount:
    """No login, no cron job, no at job from here on; the ledger knows that a removal has begun."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"lock account {self.username}"

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        host.ledger.begin_removal(self.username)
        host.accounts.lock(account, locks=host.locks)


@dataclass(frozen=True)
class EndProcesses:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"end every process of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.claimed_account(host, self.username)
        schedules = host.accounts.remove_schedules(account)
        host.accounts.kill_everything(account)
        # Not before: a student with a file system of their own (FUSE) could mount it again and again.
        _refuse_mounts(host, account)
        return {self.username: {"schedules": list(schedules)}}


@dataclass(frozen=True)
class DemandComplete:
    """Whoever's home was not retrieved whole keeps account and home, locked."""

    usernames: tuple[str, ...]
    run: Run
    despite: frozenset[str]

    def describe(self) -> str:
        return "check that everything was retrieved"

    def apply(self, host: Host) -> None:
        arrived = host.course_ledger.arrived(self.run.token)
        failures = {
            name: f"incomplete, so account and home stay, locked; look at the manifest in {self.run.folder}, "
            f"then repeat with --despite-incomplete {name}"
            for name in self.usernames
            if name in arrived and not arrived[name].is_complete and name not in self.despite
        }
        if failures:
            raise SomeFailed(failures)


@dataclass
class SharedFolders:
    """Where students may have put something outside of the homes: the same for all of them, so it is searched once."""

    folders: Sequence[str] | None = None
    unseen: list[str] = field(default_factory=list)

    def left(self, host: Host, account: Account) -> Details:
        """What of the student's is in them, and what was not searched. They may be gone before the account, or not."""
        try:
            if self.folders is None:
                self.folders, self.unseen = homes.shared_folders(account, _homes(host))
            found, closed = homes.left_in(account, self.folders)
        except HostError as error:
            found, closed = [], [f"/ ({error.problem})"]
        return {"left": found, "not_searched": [*self.unseen, *closed]}


@dataclass(frozen=True)
class DeleteStudent:
    """Home and account, after a second look at the home that must equal the one that was retrieved."""

    username: str
    run: Run
    shared: SharedFolders
    is_homeless: bool = False
    """The home is gone: we emptied it in an earlier run, or the teacher says that it is so (`--despite-incomplete`)."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"delete {'' if self.is_homeless else 'home and '}account of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.claimed_account(host, self.username)
        # Since the first sweep somebody may have acted as this uid once more, by a service of root's, say.
        host.accounts.kill_everything(account)
        if self.is_homeless:
            self._demand_no_home(account)
        else:
            self._verify(host, account)
        runtime_folders.take_away(host.paths.students_run, account.uid)
        temporary = homes.delete_temporary(account, (*homes.TEMPORARY, _runtime_folder(host, account)))
        if not self.is_homeless:
            self._empty(host, account)
        left = self.shared.left(host, account)
        # Before the account: after a kill in between the next run finds it and does both.
        disks.forget(host, account)
        host.accounts.delete(account, locks=host.locks)
        # On tmpfs, and empty unless somebody else has written there: then it is gone at the next reboot.
        with contextlib.suppress(OSError):
            os.rmdir(_runtime_folder(host, account))
        return {
            self.username: {"deleted": [str(account.home), *temporary], **left, **forget_student(host, self.username)}
        }

    def _demand_no_home(self, account: Account) -> None:
        if os.path.lexists(account.home):
            raise HostError("the home has come back and was not retrieved", "Run it again.")

    def _empty(self, host: Host, account: Account) -> None:
        """As the student. What the student cannot delete (a folder that root made there, say) was verified as well."""
        _refuse_mounts(host, account)
        host.course_ledger.forget_handed_out(self.username)
        host.ledger.begin_emptying(self.username)
        for line in homes.empty(account):
            log.info("left to root in the home of %s: %s", self.username, line)

    def _verify(self, host: Host, account: Account) -> None:
        arrived = host.course_ledger.arrived(self.run.token).get(self.username)
        if arrived is None or arrived.uid != account.uid:
            raise HostError("the home was not retrieved in this run; account and home stay, locked")
        now = homes.listing(account, retrieve.scope_of(host, self.username, HOME), host.settings.retrieve)
        if now != arrived.listing:
            raise HostError("the home changed after it was retrieved; account and home stay, locked", "Run it again.")


@dataclass(frozen=True)
class RefuseChanged:
    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"keep account {self.username}, which was changed by hand"

    def apply(self, host: Host) -> None:
        raise HostError(
            "the account was changed by hand, so it was retrieved and not deleted",
            f"if it is ours, `nblauncher remove --only {self.username} --claim {self.username}`",
        )


def _refuse_strangers(usernames: Sequence[str], claimed: frozenset[str], despite_incomplete: frozenset[str]) -> None:
    options = {"--claim": claimed, "--despite-incomplete": despite_incomplete}
    problems = [
        f'{option}: there is no student "{printable(name)}"'
        for option, names in options.items()
        for name in sorted(names - frozenset(usernames))
    ]
    if problems:
        raise InputError(problems, "Nothing was changed.")


def _refuse_mounts(host: Host, account: Account) -> None:
    mounts = host.accounts.mounts_in_home(account)
    if mounts:
        raise HostError(f"something is mounted in the home: {mounts[0]}", "Unmount it and run the command again.")


def _homes(host: Host) -> list[Path]:
    """Everybody's: what is below is the business of whose home it is."""
    return [
        host.settings.accounts.home,
        Path("/root"),
        *(Path(one.pw_dir) for one in pwd.getpwall() if one.pw_uid >= 1000),
    ]


def _runtime_folder(host: Host, account: Account) -> Path:
    return host.paths.students_run / str(account.uid)


def _is_deletable(name: str, facts: Facts, claimed: frozenset[str]) -> bool:
    """Ours, of no other course, and either untouched or claimed by the teacher; or ours and already gone."""
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
        AccountState.FOREIGN: "not an account we made any more",
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
