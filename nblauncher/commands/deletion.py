"""The steps that delete a student: lock, end processes, verify what was retrieved, delete home and account."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nblauncher.commands import disks, retrieve
from nblauncher.commands.cleanup import forget_student, forget_students
from nblauncher.commands.retrieve import Run
from nblauncher.commands.running import shutdown
from nblauncher.errors import HostError, NblauncherError
from nblauncher.exchange import homes
from nblauncher.exchange.retrieve import collection
from nblauncher.exchange.retrieve.scope import HOME
from nblauncher.isolation import runtime_folders
from nblauncher.model import Account
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, SomeFailed
from nblauncher.system import workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReclaimAccount(ForOne):
    """The account was changed by hand, and the teacher says that it is ours (`--claim`)."""

    def describe(self) -> str:
        return f"claim account {self.username}, which was changed by hand"

    def apply(self, host: Host) -> None:
        host.accounts.reclaim(survey.claimed_account(host, self.username), locks=host.locks)


@dataclass(frozen=True)
class DiscardAccount(ForOne):
    """A crash in setup left it half made; it was never used."""

    def describe(self) -> str:
        return f"discard half-made account {self.username}"

    def apply(self, host: Host) -> None:
        host.accounts.discard(survey.claimed_account(host, self.username), locks=host.locks)
        forget_student(host, self.username)


@dataclass(frozen=True)
class LockAccount(ForOne):
    """From here on no login, cron job or at job starts; the ledger records that a removal has begun."""

    def describe(self) -> str:
        return f"lock account {self.username}"

    def apply(self, host: Host) -> None:
        account = survey.claimed_account(host, self.username)
        host.ledger.begin_removal(self.username)
        host.accounts.lock(account, locks=host.locks)


@dataclass(frozen=True)
class EndProcesses(ForOne):
    def describe(self) -> str:
        return f"end every process of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.claimed_account(host, self.username)
        schedules = host.accounts.remove_schedules(account)
        host.accounts.kill_everything(account)
        # Not earlier: a student with a file system of their own (FUSE) could mount it again and again.
        _refuse_mounts(host, account)
        return {self.username: {"schedules": list(schedules)}}


@dataclass(frozen=True)
class DemandComplete:
    """A student keeps account and home, locked, if the home was not retrieved completely."""

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
class Search:
    """The look for files outside of the homes, which goes on in a child while the homes are retrieved."""

    worker: workers.Worker | None = None
    problem: str = ""
    in_temporary: workers.Worker | None = None
    owners: frozenset[int] | None = None
    """The uids that own something in the temporary folders; None: not known, so each student looks."""


@dataclass(frozen=True)
class BeginSearch:
    """Once for all students: they can write to the same folders. The child is the first of them."""

    usernames: tuple[str, ...]
    search: Search

    def describe(self) -> str:
        return "look for files outside of the homes"

    def apply(self, host: Host) -> None:
        try:
            searcher = survey.claimed_account(host, self.usernames[0])
            uids = list(_uids(host, self.usernames).values())
            self.search.worker = homes.begin_search(searcher, uids, _homes(host))
            self.search.in_temporary = homes.begin_search_of_temporary(searcher, uids)
        except NblauncherError as error:
            self.search.problem = error.problem


@dataclass(frozen=True)
class FindOwners:
    """Most students leave nothing in /tmp, which may hold other accounts' large trees: those need not be searched for
    each student.
    """

    search: Search
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "find who has files in temporary folders"

    def apply(self, host: Host) -> None:
        if self.search.in_temporary is not None:
            with contextlib.suppress(HostError):
                self.search.owners = homes.owners_in_temporary(self.search.in_temporary)


@dataclass(frozen=True)
class EndSearch:
    """Before the student who searches is swept. What was not found is no reason to keep an account."""

    usernames: tuple[str, ...]
    search: Search

    def describe(self) -> str:
        return "list what is left outside of the homes"

    def apply(self, host: Host) -> Mapping[str, Details]:
        found: Mapping[int, list[str]] = {}
        try:
            if self.search.worker is None:
                raise HostError(self.search.problem or "the search was not begun")
            found, unseen = homes.found_outside(self.search.worker)
        except HostError as error:
            unseen = [f"/ ({error.problem})"]
        uids = _uids(host, self.usernames)
        return {name: {"left": found.get(uid, []), "not_searched": unseen} for name, uid in uids.items()}


@dataclass(frozen=True)
class DeleteHome(ForOne):
    """Delete the home, after checking that it still equals what was retrieved, and what is in temporary folders."""

    run: Run
    search: Search
    is_gone: bool = False
    """We deleted the home in an earlier run, or the teacher says that it is gone (`--despite-incomplete`)."""

    def describe(self) -> str:
        return f"delete {'temporary files' if self.is_gone else 'the home'} of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.claimed_account(host, self.username)
        # Since the first sweep one of root's services may have started another process with this uid.
        host.accounts.kill_everything(account)
        if self.is_gone:
            self._demand_no_home(account)
        else:
            self._verify(host, account)
        runtime_folders.take_away(host.paths.students_run, account.uid)
        owners = self.search.owners
        searched = homes.TEMPORARY if owners is None or account.uid in owners else ()
        temporary = (*searched, _runtime_folder(host, account))
        if self.is_gone:
            return {self.username: {"deleted": list(homes.delete_temporary(account, temporary))}}
        return {self.username: {"deleted": self._empty(host, account, temporary)}}

    def _demand_no_home(self, account: Account) -> None:
        if os.path.lexists(account.home):
            raise HostError("the home exists again and was not retrieved", "Run it again.")

    def _empty(self, host: Host, account: Account, temporary: Sequence[Path]) -> list[str]:
        """As the student. What the student cannot delete (such as a folder made by root) was verified too."""
        _refuse_mounts(host, account)
        host.course_ledger.forget_handed_out(self.username)
        host.ledger.begin_emptying(self.username)
        left, elsewhere = homes.clear(account, temporary)
        for line in left:
            log.info("left to root in the home of %s: %s", self.username, line)
        # At once: what a service of root's puts there later was not retrieved.
        host.accounts.delete_home(account)
        return elsewhere

    def _verify(self, host: Host, account: Account) -> None:
        arrived = host.course_ledger.arrived(self.run.token).get(self.username)
        if arrived is None or arrived.uid != account.uid:
            raise HostError("the home was not retrieved in this run; account and home stay, locked")
        now = collection.listing(account, retrieve.scope_of(host, self.username, HOME), host.settings.retrieve)
        if now != arrived.listing:
            raise HostError(
                "the home changed after it was retrieved; account and home stay, locked", "Run the command again."
            )


@dataclass(frozen=True)
class DeleteAccount(ForOne):
    """The home is gone. One at a time: docs/decisions/useradd-one-at-a-time.md."""

    def describe(self) -> str:
        return f"delete account {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.claimed_account(host, self.username)
        if os.path.lexists(account.home):
            raise HostError("the home exists again and was not retrieved", "Run the command again.")
        # Before the account: if we are killed in between, the next run finds the account and does both.
        disks.forget(host, account)
        host.accounts.delete(account, locks=host.locks)
        # On tmpfs, and empty unless another account wrote there: then it lasts until the next reboot.
        with contextlib.suppress(OSError):
            os.rmdir(_runtime_folder(host, account))
        return {self.username: {"deleted": [str(account.home)]}}


@dataclass(frozen=True)
class ForgetStudents:
    """All at once: each ledger and the teacher's file are written once. The next run does it if we are killed now."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"forget {shutdown.count_of(self.usernames, 'student')}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        details = forget_students(host, self.usernames)
        return dict.fromkeys(self.usernames, details)


@dataclass(frozen=True)
class RefuseChanged(ForOne):
    def describe(self) -> str:
        return f"keep account {self.username}, which was changed by hand"

    def apply(self, host: Host) -> None:
        raise HostError(
            "the account was changed by hand, so it was retrieved and not deleted",
            f"If it is ours: `nblauncher remove --only {self.username} --claim {self.username}`",
        )


def _refuse_mounts(host: Host, account: Account) -> None:
    mounts = host.accounts.mounts_in_home(account)
    if mounts:
        raise HostError(f"something is mounted in the home: {mounts[0]}", "Unmount it and run the command again.")


def _uids(host: Host, usernames: Sequence[str]) -> dict[str, int]:
    claims = host.ledger.claims()
    return {name: claims[name].account.uid for name in usernames if name in claims}


def _homes(host: Host) -> list[Path]:
    """All home folders, to be left out of the search: they belong to their accounts."""
    return [
        host.settings.accounts.home,
        Path("/root"),
        *(Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_uid >= 1000),
    ]


def _runtime_folder(host: Host, account: Account) -> Path:
    return host.paths.students_run / str(account.uid)
