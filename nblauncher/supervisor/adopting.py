"""The seats that a killed supervisor left: their servers are taken over without being touched, or ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from nblauncher.model import Handle, JobHandle, ServerState, handle_words
from nblauncher.supervisor import adoption
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.server_news import News
from nblauncher.supervisor.spawners import SLURM
from nblauncher.supervisor.stopping import Exit, ExitWords

log = logging.getLogger(__name__)

_UP = (ServerState.STARTING.value, ServerState.READY.value)


class Owner(Protocol):
    """The seats of the class."""

    def add(self, seat: Seat) -> None: ...

    def ended(self, seat: Seat, how: Exit) -> None: ...

    def stop(
        self,
        seat: Seat,
        grace: float,
        done: Callable[[], None] = ...,
        *,
        final_state: ServerState = ...,
        reason: str = ...,
    ) -> None: ...


class Adopting:
    def __init__(
        self, loop: Loop, seats: Owner, news: News, sandboxes: Sandboxes, exits: ExitWords, logs: Path
    ) -> None:
        self._loop, self._seats, self._news, self._sandboxes = loop, seats, news, sandboxes
        self._exits, self._logs = exits, logs

    def adopt(self, student: Remembered) -> None:
        """Take over a server that the last supervisor left running, without touching it.

        A server that cannot be verified (another process with its pid, another uid, no socket) is not adopted: what
        is left in the student's group is killed, and the next `bind` opens the port again.
        """
        seat = Seat(student.username, student.uid, student.port, self._sandboxes.group(student.uid))
        self._seats.add(seat)
        seat.state, seat.reason, seat.started_at = ServerState.STOPPED, student.reason, student.started_at
        if isinstance(student.handle, JobHandle):
            self._adopt_job(seat, student, student.handle)
        elif student.state not in _UP or student.handle is None:
            has_failed = student.state == ServerState.FAILED.value
            seat.state = ServerState.FAILED if has_failed else ServerState.STOPPED
        else:
            self._adopt_process(seat, student, student.handle)

    def _adopt_process(self, seat: Seat, student: Remembered, handle: Handle) -> None:
        try:
            taken = adoption.take(student, handle)
        except adoption.NotAdopted as error:
            log.warning("%s's server was not adopted: %s", seat.username, error)
            self._seats.stop(seat, 0.0, final_state=ServerState.FAILED, reason=f"was not adopted: {error}")
            return
        seat.sockets = taken.sockets
        if taken.output is not None:
            seat.output = CappedLog(self._loop, taken.output, log_file(self._logs, seat))
        if taken.news is not None:
            self._news.adopt(seat, taken.news)
        seat.handle, seat.pidfd = handle, taken.pidfd
        seat.state, seat.reason = ServerState(student.state), ""
        self._loop.watch(taken.pidfd, lambda: self._seats.ended(seat, self._exits.of(seat.group, None)))
        log.info("adopted %s's server, %s, on port %d", seat.username, handle_words(handle), seat.port)

    def _adopt_job(self, seat: Seat, student: Remembered, handle: JobHandle) -> None:
        """The job goes on without us. What became of it, the next look at the cluster tells."""
        seat.handle, seat.spawner, seat.started_by, seat.is_remote = handle, SLURM, SLURM, True
        seat.sockets, seat.site, seat.sign_ins = adoption.sockets_of(student), student.site, student.sign_ins
        seat.state, seat.reason = ServerState.STARTING, ""
        log.info("adopted %s's server, %s, on port %d", seat.username, handle_words(handle), seat.port)
        if student.is_ending:
            self._seats.stop(seat, 0.0, reason=student.reason)


def log_file(logs: Path, seat: Seat) -> Path:
    return logs / f"{seat.username}.log"
