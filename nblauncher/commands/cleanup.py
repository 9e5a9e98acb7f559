"""The steps of `remove` that make the course forget: a student, a running class's ports and names, the course."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nblauncher.auth import credentials, hashes
from nblauncher.commands.running import front_page, service, shutdown
from nblauncher.errors import HostError, InputError
from nblauncher.ledger import imported, locked, lockouts
from nblauncher.model import ServerState
from nblauncher.planning.host import Host, captures_lock
from nblauncher.planning.lockouts import keep_locked
from nblauncher.planning.plan import Details, ForOne
from nblauncher.supervisor import client, doings

_LONGEST_CAPTURE = 120.0
"""Seconds to wait for a running capture."""


@dataclass(frozen=True)
class LeaveCourse(ForOne):
    """Nothing is deleted: a guest, a student of another course, or an account that is gone or not ours."""

    def describe(self) -> str:
        return f"forget {self.username}; the account is left alone"

    def apply(self, host: Host) -> Mapping[str, Details]:
        claim = host.ledger.claim(self.username)
        if claim is not None and not claim.is_guest:
            if self.username in host.accounts.members_of(host.group):
                host.accounts.remove_from_group([claim.account], host.group, locks=host.locks)
            if host.accounts.lookup(self.username) is None and not os.path.lexists(claim.account.home):
                host.accounts.delete(claim.account, locks=host.locks)  # an interrupted userdel left the group
        details = forget_student(host, self.username)
        keep_locked(host, self.username)  # by the courses that are left
        return {self.username: details}


@dataclass(frozen=True)
class DropFromClass:
    """A class that keeps running: release the ports of removed students and drop their names from the front page."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "drop the removed students from the running class"

    def apply(self, host: Host) -> None:
        members = host.ledger.members(host.settings.course)
        supervisor = client.connect(host.paths)
        if supervisor is None or not members:
            return
        with supervisor:
            supervisor.drop([report.username for report in supervisor.servers() if report.username not in members])
            is_shown = supervisor.front_page().state is ServerState.READY
        try:
            if is_shown and not front_page.is_current(host):
                front_page.StartFrontPage().apply(host)
        except InputError as error:
            raise HostError(f"the front page still lists removed students: {error.problem}", error.hint) from error


@dataclass(frozen=True)
class EndCourse:
    """After the last student: delete the course's group, sockets and state. Logs and retrieved work stay."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "forget the course when no student is left; its logs and the retrieved work stay"

    def apply(self, host: Host) -> None:
        if host.ledger.members(host.settings.course):
            return
        shutdown.end_class(host)
        host.accounts.remove_group(host.group, locks=host.locks)
        service.remove(host.settings.course)
        # A running capture finishes first. A command that waits for one finds that the course is gone, and ends.
        with locked(captures_lock(host), f"course {host.settings.course}", patience=_LONGEST_CAPTURE):
            # The record goes last: as long as it is there, the next `remove` finishes what a crash left.
            host.remove_state()
            host.ledger.forget_course(host.settings.course)


def forget_student(host: Host, username: str) -> Details:
    """See forget_students."""
    return forget_students(host, (username,))


def forget_students(host: Host, usernames: Sequence[str]) -> Details:
    """Our memory of these students in this course, and the teacher's rows of credentials.

    The memberships go last: as long as they are there, the next `remove` finishes what a crash left. A credentials file
    that the teacher replaced by something else is left alone and reported.
    """
    hashes.update(host.paths.hashes, {}, gone=usernames)
    lockouts.update(host.paths.lockouts, {}, gone=usernames)
    imported.drop(host.paths.imported, usernames)
    for username in usernames:
        for suffix in ("pem", "key"):
            (host.paths.tls / "servers" / f"{username}.{suffix}").unlink(missing_ok=True)
    details: Details = {}
    try:
        credentials.write(host.owner, host.settings.credentials, [], gone=usernames)
    except HostError as error:
        path, reason = str(host.settings.credentials), f"the student's row is still there: {error.problem}"
        details = {"exceptions": [{"path": path, "reason": reason, "incomplete": False}]}
    host.course_ledger.forget(*usernames)
    host.history.forget(*usernames)
    host.contents.prune(host.history.contents())
    doings.forget(host.paths.state / doings.SIGN_INS, usernames)
    host.ledger.leave(host.settings.course, *usernames)
    return details
