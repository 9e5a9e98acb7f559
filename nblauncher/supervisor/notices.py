"""What students are told while the class runs: the teacher's messages, visits, deadlines, full disks, new material.

The supervisor keeps it and writes a file for each student (nblauncher.server.notices), which the student's own server
reads: nothing needs to be connected, so servers that sleep, start later or were adopted learn it as well. It keeps
its own record for a supervisor that takes over. Times are Unix seconds.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nblauncher.server import notices
from nblauncher.server.notices import Message, Notices, Visit
from nblauncher.system import root_files

log = logging.getLogger(__name__)

RECORD = "notices.json"
"""Its name in the course's runtime folder."""

MOST_INVITATIONS = 20
"""Unused links of one class; the oldest go first."""


def _no_deadlines(_username: str) -> Sequence[tuple[str, int]]:
    return ()


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link for the teacher that was not used yet. `digest` is the sha256 of its secret, in hex."""

    username: str
    digest: str
    valid_until: float
    seconds: int
    """How long the visit lasts."""


@dataclass
class _Told:
    """What one student is told besides the class's message and the deadlines."""

    message: Message | None = None
    visits: tuple[Visit, ...] = ()
    disk: tuple[int, int] | None = None
    changed: tuple[str, ...] = ()
    changed_at: int = 0


@dataclass
class Board:
    """One class's. `uids` are those of the students with a seat; `run` is the course's runtime folder.

    Every method that changes something writes the files of the students concerned; OSError when that fails.
    """

    run: Path
    uids: Callable[[], Mapping[str, int]]
    now: Callable[[], float] = time.time
    message: Message | None = None
    """For the whole class, so also on the front page."""
    _told: dict[str, _Told] = field(default_factory=dict)
    _invitations: list[Invitation] = field(default_factory=list)
    _deadlines: Sequence[tuple[str, int]] = ()
    _own_of: Callable[[str], Sequence[tuple[str, int]]] = _no_deadlines
    _ends: dict[str, int] = field(default_factory=dict)
    """As of `warn_of_ends`. Not kept for the next supervisor: the cluster knows."""
    _written: dict[int, bytes] = field(default_factory=dict)
    """By uid, what was written."""

    def say(self, usernames: Iterable[str] | None, text: str, until: int | None) -> None:
        """Show this message to these students in place of their last one; None: to the class, in place of its last
        one. No text clears: for the class, all messages.
        """
        message = Message(secrets.token_hex(8), text, int(self.now()), until) if text else None
        if usernames is None:
            self.message = message
            for told in self._told.values():
                told.message = told.message if text else None
        for username in usernames or ():
            self._of(username).message = message
        self._publish()

    def told(self, username: str) -> list[Message]:
        """The messages that this student sees now, the class's first."""
        own = self._told.get(username, _Told()).message
        return [one for one in (self.message, own) if one is not None and not one.is_over(self.now())]

    def warn_of_disk(self, username: str, disk: tuple[int, int] | None) -> None:
        self._of(username).disk = disk
        self._publish()

    def warn_of_ends(self, ends: Mapping[str, int]) -> None:
        """The time limits of these students' jobs end their servers soon: username → Unix second."""
        if ends != self._ends:
            self._ends = dict(ends)
            self._publish()

    def written(self, uid: int) -> bytes:
        """What stands in the student's file, for a server that cannot read it. Empty: nothing was written yet."""
        return self._written.get(uid, b"")

    def show_changed(self, username: str, paths: Sequence[str]) -> None:
        """A delivery changed these files below the student's home."""
        told = self._of(username)
        short = [path for path in paths if len(path) <= notices.LONGEST_PATH]
        told.changed, told.changed_at = tuple(short[: notices.MOST_CHANGED]), int(self.now())
        self._publish()

    def keep_deadlines(
        self, deadlines: Sequence[tuple[str, int]], own_of: Callable[[str], Sequence[tuple[str, int]]]
    ) -> None:
        """Folder and time of the class's deadlines, and those of single students."""
        self._deadlines, self._own_of = deadlines, own_of
        self._publish()

    def invite(self, username: str, digest: str, valid: int, lasts: int) -> None:
        """The teacher's link may be used once within `valid` seconds; the visit lasts for `lasts`."""
        invitation = Invitation(username, digest, self.now() + valid, lasts)
        self._invitations = [*self._invitations, invitation][-MOST_INVITATIONS:]
        log.info("a link to %s's server was made; it is valid for %d s", username, valid)

    def admit(self, digest: str, client: str) -> tuple[str, Visit] | None:
        """Use up the link with this digest: the student, and the visit that begins. None if there is none."""
        now = self.now()
        self._invitations = [one for one in self._invitations if one.valid_until > now]
        found = next((one for one in self._invitations if secrets.compare_digest(one.digest, digest)), None)
        if found is None:
            return None
        self._invitations.remove(found)
        visit = Visit(secrets.token_hex(8), int(now), int(now) + found.seconds)
        told = self._of(found.username)
        told.visits = (*told.visits, visit)
        log.info(
            "the teacher's link to %s's server was used from %s: visit %s, until %s",
            *(found.username, client, visit.name, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(visit.until))),
        )
        self._publish()
        return found.username, visit

    def end_visits(self, usernames: Iterable[str] | None) -> int:
        """End the visits of these students' servers, and their unused links; None: of all. How many there were."""
        chosen = None if usernames is None else frozenset(usernames)
        count = 0
        for username, told in self._told.items():
            if chosen is None or username in chosen:
                count += sum(visit.until > self.now() for visit in told.visits)
                told.visits = ()
        kept = [one for one in self._invitations if chosen is not None and one.username not in chosen]
        count += len(self._invitations) - len(kept)
        self._invitations = kept
        self._publish()
        return count

    def refresh(self) -> None:
        """Students came or went."""
        self._publish()

    def recover(self) -> None:
        """Take over what a killed supervisor kept. Unused links are void."""
        text = root_files.read(self.run / RECORD)
        if text is None:
            return
        try:
            given = json.loads(text)
            self.message = None if given["message"] is None else Message(**given["message"])
            self._told = {str(name): _told_in(about) for name, about in given["told"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s is damaged and is not used: %s", self.run / RECORD, error)

    def close(self) -> None:
        """The class is over."""
        (self.run / RECORD).unlink(missing_ok=True)
        shutil.rmtree(notices.folder_of(self.run), ignore_errors=True)

    def _of(self, username: str) -> _Told:
        return self._told.setdefault(username, _Told())

    def _publish(self) -> None:
        """Forget what is over, then write what changed."""
        now, uids = self.now(), self.uids()
        if self.message is not None and self.message.is_over(now):
            self.message = None
        for told in self._told.values():
            told.visits = tuple(visit for visit in told.visits if visit.until > now)
            if told.message is not None and told.message.is_over(now):
                told.message = None
        self._told = {name: told for name, told in self._told.items() if told != _Told() and name in uids}
        self._save()
        folder = notices.folder_of(self.run)
        folder.mkdir(mode=0o711, exist_ok=True)
        folder.chmod(0o711)
        for uid in self._written.keys() - set(uids.values()):
            (folder / f"{uid}.json").unlink(missing_ok=True)
            del self._written[uid]
        for username, uid in uids.items():
            content = self._notices(username).to_bytes()
            if self._written.get(uid) != content:
                root_files.replace(folder / f"{uid}.json", content, mode=0o400, owner=uid)
                self._written[uid] = content

    def _notices(self, username: str) -> Notices:
        told = self._told.get(username, _Told())
        own = list(self._own_of(username))
        # A student with extra time has a later moment of the class's deadline, which counts in its place.
        common = [one for one in self._deadlines if not any(one[0] == folder and one[1] < at for folder, at in own)]
        deadlines = tuple(sorted({*common, *own}, key=lambda pair: pair[::-1]))
        return replace(
            Notices(tuple(self.told(username)), deadlines, told.visits, told.disk),
            changed=told.changed,
            changed_at=told.changed_at,
            ends_at=self._ends.get(username, 0),
        )

    def _save(self) -> None:
        message = None if self.message is None else asdict(self.message)
        content = {"message": message, "told": {name: asdict(told) for name, told in self._told.items()}}
        root_files.replace(self.run / RECORD, json.dumps(content))


def _told_in(given: Mapping[str, Any]) -> _Told:
    message, disk = given["message"], given["disk"]
    return _Told(
        None if message is None else Message(**message),
        tuple(Visit(**visit) for visit in given["visits"]),
        None if disk is None else (int(disk[0]), int(disk[1])),
        tuple(map(str, given["changed"])),
        int(given["changed_at"]),
    )
