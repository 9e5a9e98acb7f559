"""remove: retrieve, verify, then delete what we made, and nothing that was not verified in this very run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nblauncher import credentials, hashes, homes, survey
from nblauncher.commands import retrieve, shutdown
from nblauncher.commands.retrieve import Run
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.model import Account, AccountState
from nblauncher.plan import Details, Phase, Plan, SomeFailed
from nblauncher.scope import ALL, HOME
from nblauncher.supervisor import client
from nblauncher.survey import Facts


def plan(
    usernames: Sequence[str],
    facts: Facts,
    *,
    claimed: frozenset[str],
    despite_incomplete: frozenset[str],
    now: datetime,
) -> tuple[Plan, Run]:
    """Who is deleted with account and home, who only leaves the course, and in which order it happens.

    `claimed`: accounts that were changed by hand and that the teacher says are ours (`--claim`).
    """
    run = Run(now)
    members = [name for name in usernames if name in facts.members]
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
    ends_course = facts.record is not None and set(facts.members) == {*deleted, *leaving}
    return (
        Plan(
            (
                Phase("stop servers", shutdown.steps(members) if members else ()),
                Phase("claim accounts", tuple(map(ReclaimAccount, reclaimed))),
                Phase("lock accounts", tuple(map(LockAccount, present))),
                Phase("end processes", tuple(map(EndProcesses, present))),
                *retrieve.phases(run, kinds, always_publishes=True),
                Phase("verify", (DemandComplete(tuple(kinds), run, despite_incomplete),) if kinds else ()),
                Phase("delete", tuple(DeleteStudent(name, run, is_homeless=name in homeless) for name in present)),
                Phase("discard half-made accounts", tuple(map(DiscardAccount, half_made))),
                Phase("leave the course", tuple(map(LeaveCourse, [*gone, *leaving]))),
                Phase("keep", tuple(map(RefuseChanged, kept_by_hand))),
                Phase("let go of ports", (DropPorts((*deleted, *leaving)),) if deleted or leaving else ()),
                Phase("end the course", (EndCourse(),) if ends_course else ()),
            ),
            _notes(usernames, facts, leaving),
        ),
        run,
    )


def prepare(
    host: Host, usernames: Sequence[str], claimed: frozenset[str], despite: frozenset[str], now: datetime
) -> tuple[Plan, Run]:
    """Survey and plan."""
    facts = survey.survey(host, usernames)
    return plan(usernames, facts, claimed=claimed, despite_incomplete=despite, now=now)


def summary(run: Run, host: Host) -> str:
    """Where everything went that was in the homes."""
    if not run.folder:
        return ""
    return f"What was in the homes is in {host.settings.retrieve.target / run.folder}"


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
        _refuse_mounts(host, account)
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

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        host.accounts.remove_schedules(account)
        host.accounts.kill_everything(account)


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


@dataclass(frozen=True)
class DeleteStudent:
    """Home and account, after a second look at the home that must equal the one that was retrieved."""

    username: str
    run: Run
    is_homeless: bool = False
    """The home is gone: we emptied it in an earlier run, or the teacher says that it is so (`--despite-incomplete`)."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"delete {'' if self.is_homeless else 'home and '}account of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.claimed_account(host, self.username)
        temporary = homes.delete_temporary(account, (*homes.TEMPORARY, _runtime_folder(host, account)))
        if not self.is_homeless:
            self._verify(host, account)
            _refuse_mounts(host, account)
            host.course_ledger.forget_handed_out(self.username)
            host.ledger.begin_emptying(self.username)
            left = homes.empty(account)
            if left:
                raise HostError(f"the home could not be emptied: {left[0]}", "the account and the rest of it stay")
        elif os.path.lexists(account.home):
            raise HostError("the home has come back and was not retrieved", "Run it again.")
        host.accounts.kill_everything(account)
        host.accounts.delete(account, locks=host.locks)
        # On tmpfs, and empty unless somebody else has written there: then it is gone at the next reboot.
        with contextlib.suppress(OSError):
            os.rmdir(_runtime_folder(host, account))
        return {self.username: {"deleted": [str(account.home), *temporary], **forget_student(host, self.username)}}

    def _verify(self, host: Host, account: Account) -> None:
        arrived = host.course_ledger.arrived(self.run.token).get(self.username)
        if arrived is None or arrived.uid != account.uid:
            raise HostError("the home was not retrieved in this run; account and home stay, locked")
        now = homes.listing(account, retrieve.scope_of(host, self.username, HOME), host.settings.retrieve)
        if now != arrived.listing:
            raise HostError("the home changed after it was retrieved; account and home stay, locked", "Run it again.")


@dataclass(frozen=True)
class LeaveCourse:
    """Nothing is deleted: a guest, a student of another course, or an account that is gone or not ours."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

    def describe(self) -> str:
        return f"forget {self.username}; the account is left alone"

    def apply(self, host: Host) -> Mapping[str, Details]:
        claim = host.ledger.claim(self.username)
        if claim is not None and not claim.is_guest:
            host.accounts.remove_from_group([claim.account], host.group, locks=host.locks)
        return {self.username: forget_student(host, self.username)}


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


@dataclass(frozen=True)
class DropPorts:
    """A class that goes on for the others lets go of the ports of those who left."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"let go of {len(self.usernames)} ports"

    def apply(self, host: Host) -> None:
        supervisor = client.connect(host.paths)
        if supervisor is not None:
            with supervisor:
                supervisor.drop(self.usernames)


@dataclass(frozen=True)
class EndCourse:
    """The last student is gone: so are the course's group, sockets and state. Logs and retrieved work stay."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "forget the course; its logs and the retrieved work stay"

    def apply(self, host: Host) -> None:
        if host.ledger.members(host.settings.course):
            return
        shutdown.end_class(host)
        host.accounts.remove_group(host.group, locks=host.locks)
        # The record goes last: as long as it is there, the next `remove` finishes what a crash left.
        host.remove_state()
        host.ledger.forget_course(host.settings.course)


def forget_student(host: Host, username: str) -> Details:
    """Our memory of the student in this course, and the teacher's row of credentials.

    The membership goes last: as long as it is there, the next `remove` finishes what a crash left. A credentials file
    that the teacher has made something else of is left alone, and that is said.
    """
    hashes.update(host.paths.hashes, {}, gone=[username])
    for suffix in ("pem", "key"):
        (host.paths.tls / "servers" / f"{username}.{suffix}").unlink(missing_ok=True)
    details: Details = {}
    try:
        credentials.write(host.owner, host.settings.credentials, [], gone=[username])
    except HostError as error:
        path, reason = str(host.settings.credentials), f"the student's row is still there: {error.problem}"
        details = {"exceptions": [{"path": path, "reason": reason, "incomplete": False}]}
    host.course_ledger.forget(username)
    host.ledger.leave(host.settings.course, username)
    return details


def _refuse_mounts(host: Host, account: Account) -> None:
    mounts = host.accounts.mounts_in_home(account)
    if mounts:
        raise HostError(f"something is mounted in the home: {mounts[0]}", "Unmount it and run the command again.")


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


def _notes(usernames: Sequence[str], facts: Facts, leaving: Sequence[str]) -> tuple[str, ...]:
    why = {
        AccountState.GUEST: "a guest",
        AccountState.FOREIGN: "not an account we made any more",
        AccountState.VANISHED: "gone already",
    }
    return (
        *(f"{name} is not in the course" for name in usernames if name not in facts.members),
        *(
            f"{name} is {why.get(facts.state(name), 'in another course as well')}: only forgotten here"
            for name in leaving
        ),
    )
