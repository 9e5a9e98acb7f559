"""What happens at set times while the class runs: snapshots at intervals, and captures at deadlines.

The supervisor does none of it itself: it starts a short-lived command as root, as it does for the front page.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from nblauncher.supervisor.loop import Loop, Timer
from nblauncher.supervisor.specs import SpecError, checked_number
from nblauncher.system import processes

log = logging.getLogger(__name__)

LEAD = 300.0
"""Seconds before a deadline at which its command starts: it copies beforehand and then waits."""

_LOOK = 20.0
"""The clock may be set, so it is read again at least this often."""
_SOON = 1.0
"""While a command still runs: it does what has become due since it began. If it does not, another one is started."""
_RETRY = 60.0
_RETRY_NEAR = 5.0
"""When a deadline is near: it must not be missed because a waiting command was killed."""
_DISKS = 600.0
_MOST = 10_000
_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """`every`: minutes between snapshots, 0 for none. `at`: all students' deadlines in Unix seconds."""

    every: int = 0
    at: tuple[int, ...] = ()
    deadlines: tuple[tuple[str, int], ...] = ()
    """Shown to all students: folder and time of the class's deadlines."""
    own: tuple[tuple[str, str, int], ...] = ()
    """Username, folder and time of students with a deadline of their own: each is shown to that student only."""
    watches_disks: bool = False
    """Whether the size of the students' files is measured now and then."""

    @classmethod
    def from_json(cls, given: Any) -> Wanted:
        if not isinstance(given, dict) or not isinstance(given.get("at"), list) or len(given["at"]) > _MOST:
            raise SpecError("not a schedule")
        at = tuple(sorted(checked_number(time, 0, 2**40) for time in given["at"]))
        shown = given.get("deadlines", [])
        if not isinstance(shown, list) or not all(isinstance(item, list) and len(item) == 2 for item in shown):
            raise SpecError("not a list of deadlines")
        deadlines = tuple((str(folder)[:200], checked_number(time, 0, 2**40)) for folder, time in shown[:_MOST_TOLD])
        theirs = given.get("own", [])
        if not isinstance(theirs, list) or not all(isinstance(item, list) and len(item) == 3 for item in theirs):
            raise SpecError("not a list of students' deadlines")
        own = tuple(
            (str(name)[:40], str(folder)[:200], checked_number(at, 0, 2**40)) for name, folder, at in theirs[:_MOST]
        )
        every = checked_number(given.get("every"), 0, 10080)
        return cls(every, at, deadlines, own, given.get("watches_disks") is True)

    def own_of(self, username: str) -> list[tuple[str, int]]:
        """Folder and time of this student's own deadlines."""
        return [(folder, at) for name, folder, at in self.own if name == username][:_MOST_TOLD]

    def to_json(self) -> dict[str, Any]:
        return {
            "every": self.every,
            "at": list(self.at),
            "deadlines": [list(deadline) for deadline in self.deadlines],
            "own": [list(deadline) for deadline in self.own],
            "watches_disks": self.watches_disks,
        }


@dataclass
class Appointments:
    """Runs the schedule of one course."""

    loop: Loop
    course: str
    wanted: Wanted = field(default_factory=Wanted)
    _running: dict[str, int] = field(default_factory=dict)
    _timers: list[Timer] = field(default_factory=list)
    _kept: set[int] = field(default_factory=set)
    _next_look: Timer | None = None

    def keep(self, wanted: Wanted) -> None:
        """Keep this schedule from now on, in place of the earlier one."""
        self.close()
        self._kept &= set(wanted.at)
        self.wanted = wanted
        if wanted.every:
            self._timers.append(self.loop.later(wanted.every * 60.0, self._snapshot))
        if wanted.watches_disks:
            self._watch_disks()
        self._look()

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._look_in(None)

    def child_ended(self, pid: int, status: int) -> bool:
        for command, running in list(self._running.items()):
            if running == pid:
                log.info("%s, pid %d, ended with status %d", command, pid, status)
                del self._running[command]
                if status and command == "retrieve":
                    has_more = bool(self._due())
                    self._kept.clear()  # what failed is tried again; what was done is recognised as done
                    self._look_in(_SOON if has_more else _RETRY_NEAR if self._is_near() else _RETRY)
                return True
        return False

    def _snapshot(self) -> None:
        self._timers.append(self.loop.later(self.wanted.every * 60.0, self._snapshot))
        self._run("snapshot")

    def _watch_disks(self) -> None:
        self._timers.append(self.loop.later(_DISKS, self._watch_disks))
        self._run("watch-disks")

    def _look(self) -> None:
        """The command does everything that is due, also what becomes due while it waits."""
        due = self._due()
        if due and self._run("retrieve"):
            self._kept |= due
            due = set()
        now = datetime.now(timezone.utc).timestamp()
        to_come = [at - LEAD - now for at in self.wanted.at if at - LEAD > now]
        if due:
            self._look_in(_SOON)
        elif to_come:
            self._look_in(min(_LOOK, max(0.05, min(to_come))))

    def _due(self) -> set[int]:
        """Deadlines for which no command was started yet."""
        now = datetime.now(timezone.utc).timestamp()
        return {at for at in self.wanted.at if at - LEAD <= now} - self._kept

    def _is_near(self) -> bool:
        now = datetime.now(timezone.utc).timestamp()
        return any(0 <= at - now <= LEAD for at in self.wanted.at)

    def _look_in(self, seconds: float | None) -> None:
        """Look once; None: not at all."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = None if seconds is None else self.loop.later(seconds, self._look)

    def _run(self, command: str) -> bool:
        """Returns False when the last one still runs, or it cannot be started."""
        if command in self._running:
            return False
        argv = [sys.executable, "-I", "-m", "nblauncher", command, "--unattended", self.course]
        try:
            pid = processes.begin(argv)
        except OSError as error:
            log.error("%s cannot be started: %s", command, error)
            return False
        self._running[command] = pid
        log.info("started %s, pid %d", command, pid)
        return True
