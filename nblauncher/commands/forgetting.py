"""What `remove` forgets: a student of the course, the ports and names of a running class, and at last the course."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nblauncher import credentials, hashes
from nblauncher.commands import front_page, service, shutdown
from nblauncher.errors import HostError, InputError
from nblauncher.host import Host, captures_lock
from nblauncher.ledger import locked
from nblauncher.model import ServerState
from nblauncher.plan import Details
from nblauncher.supervisor import client

_LONGEST_CAPTURE = 120.0
"""Seconds for which a capture in hand is waited for."""


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
            if self.username in host.accounts.members_of(host.group):
                host.accounts.remove_from_group([claim.account], host.group, locks=host.locks)
            if host.accounts.lookup(self.username) is None and not os.path.lexists(claim.account.home):
                host.accounts.delete(claim.account, locks=host.locks)  # a userdel that was cut short left the group
        return {self.username: forget_student(host, self.username)}


@dataclass(frozen=True)
class LetGo:
    """A class that goes on for the others: it gives up the ports of those who left, and its front page their names."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "let the running class forget who left"

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
            raise HostError(f"the front page still knows who left: {error.problem}", error.hint) from error


@dataclass(frozen=True)
class EndCourse:
    """The last student is gone: so are the course's group, sockets and state. Logs and retrieved work stay."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "forget the course when nobody is left; its logs and the retrieved work stay"

    def apply(self, host: Host) -> None:
        if host.ledger.members(host.settings.course):
            return
        shutdown.end_class(host)
        host.accounts.remove_group(host.group, locks=host.locks)
        service.remove(host.settings.course)
        # A capture in hand comes to its end first; what waits for one finds no course any more, and ends.
        with locked(captures_lock(host), f"course {host.settings.course}", patience=_LONGEST_CAPTURE):
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
    host.history.forget(username)
    host.contents.prune(host.history.contents())
    host.ledger.leave(host.settings.course, username)
    return details
