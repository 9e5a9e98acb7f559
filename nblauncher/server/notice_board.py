"""What the pages of a student's server show above everything else: messages, deadlines, warnings, the teacher's visits.

The browser gets all of it from `api/nblauncher/notices`. When it changes, an event of Jupyter's own kind tells the open
tabs, which have a WebSocket for events anyway: nothing is sent while nothing changes. Runs in the student's process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from jupyter_events import EventLogger
from jupyter_server.base.handlers import APIHandler
from tornado import web

from nblauncher.auth.appearance import Appearance
from nblauncher.errors import HostError
from nblauncher.isolation import quotas
from nblauncher.server.notices import LARGEST, NEARLY_FULL, Notices
from nblauncher.server.sessions import Sessions
from nblauncher.system import memory

LOOK_EVERY = 3.0
"""Seconds between two looks at the file's time of change."""

DISK_EVERY = 60.0
"""Seconds between two looks at the disk quota."""

ADMISSION = 30.0
"""Seconds for which a ticket alone vouches for a visit: on a node, the notice of it may come after the teacher."""

IDLE_WARNING = 300.0
"""Seconds before a server falls asleep from which its pages say so."""

PATH = "api/nblauncher/notices"
"""Below `api/`: an open tab that asks does not count as activity."""

EVENT = "urn:nblauncher:notices:1"
IN_SCRIPT = (
    *("notice_deadline", "notice_deadline_of", "notice_deadline_save", "notice_hide"),
    *("changed_shown", "changed_by_teacher", "changed_by_teacher_question", "changed_on_server"),
    *("changed_on_server_question", "changed_keep", "changed_overwrite", "changed_cancel", "changed_kept"),
)
"""The texts that notices_extension fills in itself, because they depend on the minute or on what is open."""

_SCHEMA = {
    "$id": EVENT,
    "version": "1",
    "title": "The notices for this student have changed",
    "type": "object",
    "properties": {},
}


class NoticeBoard:
    """`file` is the student's own, written by root. `idle_in` is how many seconds are left until the server falls
    asleep; None: it will not. `lost_node` may be set: the last server ran there, and the node failed.
    """

    def __init__(
        self,
        file: Path,
        home: Path,
        sessions: Sessions,
        idle_in: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.time,
        look: Callable[[], Appearance] = Appearance,
    ) -> None:
        self.lost_node, self._started = "", int(clock())
        self._file, self._home, self._sessions, self._idle_in, self._clock = file, home, sessions, idle_in, clock
        self._look = look
        self._stamp: tuple[int, int] | None = None
        self._announced: tuple[int, int] | None = None
        self._notices = Notices()
        self._events: EventLogger | None = None
        self._disk: tuple[int, int] | None = None
        self._disk_at = float("-inf")
        self._is_idle = False
        self._admitted: dict[str, float] = {}
        """Visits that a ticket named, and the notices did not yet → until when that counts."""

    def announce_with(self, events: EventLogger | None) -> None:
        """Tell open tabs through this logger when something changes."""
        if events is None:
            return
        events.register_event_schema(_SCHEMA)
        self._events = events

    def look(self) -> None:
        """Read the file if it was replaced; sign out visits that are over; tell open tabs."""
        self._read_if_new()
        # A request may have read the file before us: open tabs still have to be told.
        changed, self._announced = self._stamp != self._announced, self._stamp
        now = self._clock()
        names = {visit.name for visit in self._notices.visits if visit.until > now}
        self._admitted = {name: until for name, until in self._admitted.items() if until > now}
        self._sessions.end_visits_but(names | self._admitted.keys())
        if self._clock() - self._disk_at > DISK_EVERY:
            self._disk_at, before = self._clock(), self._disk
            self._disk = _quota(self._home)
            changed |= before != self._disk
        is_idle = self._idle_seconds() is not None
        changed, self._is_idle = changed or is_idle != self._is_idle, is_idle
        if changed and self._events is not None:
            self._events.emit(schema_id=EVENT, data={})

    def admit(self, visit: str) -> None:
        """A ticket of the class's host names this visit."""
        self._read_if_new()
        if not any(known.name == visit for known in self._notices.visits):
            self._admitted[visit] = self._clock() + ADMISSION

    def has_visit(self, name: str) -> bool:
        """Whether the teacher's visit of this name began and is not over. A visit that began this moment counts."""
        self._read_if_new()
        now = self._clock()
        is_told = any(visit.name == name and visit.until > now for visit in self._notices.visits)
        return is_told or self._admitted.get(name, 0.0) > now

    def shown(self, visit: str = "") -> dict[str, Any]:
        """What a page shows now, as JSON. `visit` is the teacher's who asks."""
        self._read_if_new()
        notices = self._notices
        return {
            "now": self._clock(),
            "notices": list(self._shown(visit)),
            "changed": list(notices.changed),
            "changed_at": notices.changed_at,
        }

    def _shown(self, asking: str) -> Iterator[dict[str, Any]]:
        notices, now, look = self._notices, self._clock(), self._look()
        texts = look.words
        for message in notices.messages:
            if not message.is_over(now):
                yield _entry(message.name, "message", message.text, message.until)
        for visit in notices.visits:
            if visit.until > now and visit.name == asking:
                words = texts.plain("notice_visitor", when=_time(visit.until, look))
                yield _entry(visit.name, "visit", words, visit.until)
            elif visit.until > now:
                words = texts.plain("notice_visit", when=_time(visit.at, look))
                yield _entry(visit.name, "visit", words, visit.until)
        for folder, at in notices.deadlines:
            if at > now:
                about = {"folder": folder, "clock": _time(at, look)}
                yield {**_entry(f"deadline {folder} {at}", "deadline", "", at), **about}
        if notices.ends_at > now:
            words = texts.plain("notice_time_limit", when=_time(notices.ends_at, look))
            yield _entry(f"time limit {notices.ends_at}", "time-limit", words, notices.ends_at)
        if self.lost_node:
            words = texts.plain("notice_moved", node=self.lost_node, when=_time(self._started, look))
            yield _entry(f"moved {self._started}", "message", words, None)
        if disk := _fullest(notices.disk, self._disk):
            used, limit = disk
            words = texts.plain("notice_disk", used=memory.words(used), limit=memory.words(limit))
            yield _entry(f"disk {round(20 * used / limit)}", "disk", words, None)
        left = self._idle_seconds()
        if left is not None:
            yield _entry("idle", "idle", texts.plain("notice_idle"), now + left)

    def _idle_seconds(self) -> float | None:
        left = self._idle_in()
        return left if left is not None and 0 < left <= IDLE_WARNING else None

    def _read_if_new(self) -> None:
        try:
            facts = os.stat(self._file)
            stamp = (facts.st_ino, facts.st_mtime_ns)
            if stamp == self._stamp:
                return
            with self._file.open("rb") as stream:
                content = stream.read(LARGEST)
        except OSError:
            self._stamp, self._notices = None, Notices()
            return
        self._stamp, self._notices = stamp, Notices.parse(content)
        for visit in self._notices.visits:
            self._admitted.pop(visit.name, None)


class NoticesHandler(APIHandler):
    """`GET api/nblauncher/notices`."""

    def initialize(self, board: NoticeBoard) -> None:
        self._board = board

    @web.authenticated
    def get(self) -> None:
        session = cast(Any, self.identity_provider).session_of(self)
        self.finish(json.dumps(self._board.shown(session.visit if session is not None else "")))


def _entry(name: str, kind: str, text: str, until: float | None) -> dict[str, Any]:
    return {"id": name, "kind": kind, "text": text, "until": until}


def _time(at: int, look: Appearance) -> str:
    now = datetime.now(timezone.utc)
    return look.words.clock(datetime.fromtimestamp(at, timezone.utc), now, look.time_zone)


def _fullest(*found: tuple[int, int] | None) -> tuple[int, int] | None:
    """The one of these that leaves least room, if any is nearly full."""
    full = [(used / limit, (used, limit)) for used, limit in filter(None, found) if used >= NEARLY_FULL * limit > 0]
    return max(full)[1] if full else None


def _quota(home: Path) -> tuple[int, int] | None:
    """The student's own quota, if the file system of the home enforces one."""
    try:
        quota = quotas.read(home, os.getuid())
    except (HostError, OSError):
        return None
    return None if quota is None or quota.limit is None else (quota.used, quota.limit)
