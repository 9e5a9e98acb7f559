"""What the class's host tells servers on nodes, and hears from them: the notices of students, kernels to end, doings.

A server that is a job has no pipe to the supervisor and does not see its files. Short-lived children send the requests
(nblauncher.supervisor.node_calls), at once when something is to be said and every few seconds otherwise. Servers that
did not answer well are asked apart from the others, with more patience, later and later. No answer is no news.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nblauncher.errors import HostError
from nblauncher.model import ROOT, JobHandle, ServerState
from nblauncher.paths import CoursePaths
from nblauncher.printable import printable
from nblauncher.server import activity
from nblauncher.server.host_requests import HostAnswer, HostRequest
from nblauncher.supervisor import node_calls
from nblauncher.supervisor.doings import now
from nblauncher.supervisor.errands import Errands
from nblauncher.supervisor.jobs import NEARLY_OVER
from nblauncher.supervisor.loop import Loop, Timer
from nblauncher.supervisor.node_calls import AT_A_TIME, EACH, HASTE, PATIENCE, Wanted, found_in
from nblauncher.supervisor.notices import Board
from nblauncher.supervisor.seat import Seat

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two requests to a server to which nothing is to be said, or more in a large class."""

_PER_SECOND = 10
"""Servers that are asked, in the long run. Each request takes a handshake."""

RARELY = 30.0
"""Seconds until a server that does not answer is asked again, at most."""

_MOST_DOUBTS = 6
_DEADLINE = 20.0


class Owner(Protocol):
    """The seats of the class."""

    def on_words(self, seat: Seat, words: Sequence[str]) -> None: ...


@dataclass(eq=False)
class _Talk:
    """With one start of a student's server. Times are those of time.monotonic."""

    seat: Seat
    mark: str
    last: HostAnswer | None
    """None after an adoption: what the server did before is no news then."""
    shown: bytes = b""
    """The notices that it has."""
    due: float = 0.0
    doubts: int = 0
    """More with each bad answer, fewer with each good one; with any, it is asked apart from the others."""
    is_silent: bool = False
    """The last answer was a bad one."""
    is_asked: bool = False
    tried: str = ""
    """The last wish to end kernels that was sent; a new one is sent even to a silent server."""


class NodeRequests:
    """`look` is called after every change."""

    def __init__(
        self,
        loop: Loop,
        errands: Errands,
        seats: Owner,
        board: Board,
        paths: CoursePaths,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop, self._errands, self._seats, self._board, self._paths = loop, errands, seats, board, paths
        self._clock = clock
        self._talks: dict[str, _Talk] = {}
        self._busy: set[bool] = set()
        """Whether servers with doubts, and those without, are being asked."""
        self._timer: Timer | None = None
        self._wakes_at = 0.0

    def look(self, seats: Iterable[Seat]) -> None:
        """Send what is to be sent. Cheap when that is nothing."""
        # Before the first notices are written, a server still shows what the last supervisor told it.
        written = self._board.written
        reachable = {seat.username: seat for seat in seats if _is_reachable(seat) and written(seat.uid)}
        if not reachable and not self._talks:
            return
        for name in self._talks.keys() - reachable.keys():
            del self._talks[name]
        for name, seat in reachable.items():
            if name not in self._talks or not _is_of(self._talks[name], seat):
                self._talks[name] = _begin(seat)
        self._warn_of_ends(reachable.values())
        for with_doubts in (False, True):
            due = [talk for talk in self._waiting(with_doubts) if self._due(talk) <= self._clock()]
            if due:
                self._ask(due[:AT_A_TIME], with_doubts=with_doubts)
        self._sleep()

    def renew(self, seats: Iterable[Seat], passwords: int, done: Callable[[Sequence[str]], None]) -> None:
        """Give these servers other passwords (`node_calls.renew`). `done` is told whose have taken it over."""
        talks = {seat.username: self._talks[seat.username] for seat in seats if seat.username in self._talks}
        wanted = [_wanted(talk, HostRequest(self._board.written(talk.seat.uid))) for talk in talks.values()]

        def renewed(kept: Sequence[str]) -> None:
            for name in talks.keys() & set(kept):
                # Meanwhile it may have refused requests under the new password.
                talks[name].is_silent, talks[name].due = False, 0.0
            done(kept)

        def failed(error: HostError) -> None:
            log.warning("no server on a node got its new password: %s", error.problem)
            done(())

        given = (self._paths, wanted, passwords)
        keep = (passwords,)
        self._errands.run(ROOT, node_calls.renew, *given, deadline=_DEADLINE, done=renewed, failed=failed, keep=keep)

    def _waiting(self, with_doubts: bool) -> list[_Talk]:
        """Those that can be asked as soon as they are due; a suspended server could not answer."""
        if with_doubts in self._busy:
            return []
        able = [one for one in self._talks.values() if not one.is_asked and not one.seat.cluster.is_suspended]
        return [one for one in able if bool(one.doubts) == with_doubts]

    def _due(self, talk: _Talk) -> float:
        """When it is to be asked: at once if there is something new for it, unless it was silent just now."""
        if talk.seat.cluster.kernels_to_end not in ("", talk.tried):
            return 0.0
        is_new = not talk.is_silent and self._board.written(talk.seat.uid) != talk.shown
        return 0.0 if is_new else talk.due

    def _sleep(self) -> None:
        """Until the next one is due; then `look` is called again."""
        waiting = [*self._waiting(False), *self._waiting(True)]
        due = min(map(self._due, waiting), default=None)
        if self._timer is not None and due != self._wakes_at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer, self._wakes_at = self._loop.later(max(0.0, due - self._clock()), self._woken), due

    def _woken(self) -> None:
        self._timer = None

    def _ask(self, talks: Sequence[_Talk], *, with_doubts: bool) -> None:
        asked = {talk.seat.username: (talk, self._request_to(talk)) for talk in talks}
        wanted = [_wanted(talk, request) for talk, request in asked.values()]
        for talk in talks:
            talk.is_asked = True
        self._busy.add(with_doubts)

        def answered(found: Mapping[str, Any]) -> None:
            self._busy.discard(with_doubts)
            for name, (talk, request) in asked.items():
                talk.is_asked = False
                if self._talks.get(name) is talk and _is_reachable(talk.seat) and _is_of(talk, talk.seat):
                    self._take(talk, request, found_in(found.get(name, "it was not asked")), was_apart=with_doubts)

        def failed(error: HostError) -> None:
            """Nothing is known of any of them."""
            self._busy.discard(with_doubts)
            log.warning("%d servers on nodes were not asked: %s", len(asked), error.problem)
            for talk, _request in asked.values():
                talk.is_asked, talk.is_silent, talk.due = False, True, self._clock() + RARELY

        given = (self._paths, wanted, PATIENCE if with_doubts else HASTE + EACH * len(wanted))
        self._errands.run(ROOT, node_calls.ask, *given, deadline=_DEADLINE, done=answered, failed=failed)

    def _request_to(self, talk: _Talk) -> HostRequest:
        talk.tried = talk.seat.cluster.kernels_to_end
        return HostRequest(self._board.written(talk.seat.uid), talk.tried)

    def _take(self, talk: _Talk, request: HostRequest, found: node_calls.Found, *, was_apart: bool) -> None:
        seat, wish = talk.seat, request.end_kernels
        if isinstance(found, HostAnswer) and wish and found.ended != wish:
            found = "it does not end its kernels"
        if not isinstance(found, HostAnswer):
            if not talk.is_silent:
                log.info("%s's server on %s: %s", seat.username, printable(seat.cluster.node), printable(found))
            talk.is_silent, talk.doubts = True, min(_MOST_DOUBTS, talk.doubts + 2)
            # One that is only slow gets its request at once, with the patience that it needs.
            talk.due = self._clock() + (min(RARELY, EVERY * talk.doubts) if was_apart else 0.0)
            return
        talk.is_silent, talk.doubts = False, max(0, talk.doubts - 1)
        talk.due = self._clock() + max(EVERY, len(self._talks) / _PER_SECOND)
        talk.shown = request.notices
        words = list(_words(talk.last, found, wish))
        talk.last, seat.doings.memory = found, found.memory
        if wish == seat.cluster.kernels_to_end:
            seat.cluster.kernels_to_end = ""
        self._seats.on_words(seat, words)

    def _warn_of_ends(self, seats: Iterable[Seat]) -> None:
        soon = now() + NEARLY_OVER
        ends = {seat.username: seat.cluster.ends_at for seat in seats if 0 < seat.cluster.ends_at <= soon}
        try:
            self._board.warn_of_ends(ends)
        except OSError as error:
            log.error("students are not told about time limits: %s", error)


def _begin(seat: Seat) -> _Talk:
    mark = seat.handle.mark if isinstance(seat.handle, JobHandle) else ""
    is_adopted = seat.attempt == 0
    return _Talk(seat, mark, None if is_adopted else HostAnswer(0, 0, 0, 0, 0))


def _is_of(talk: _Talk, seat: Seat) -> bool:
    return talk.seat is seat and isinstance(seat.handle, JobHandle) and seat.handle.mark == talk.mark


def _is_reachable(seat: Seat) -> bool:
    is_up = isinstance(seat.handle, JobHandle) and seat.state is ServerState.READY and seat.stopping is None
    return is_up and bool(seat.cluster.address and seat.cluster.port)


def _wanted(talk: _Talk, request: HostRequest) -> Wanted:
    seat = talk.seat
    run = talk.mark.rpartition(":")[2]
    return Wanted(seat.username, run, seat.cluster.address, seat.cluster.port, request.to_bytes())


def _words(last: HostAnswer | None, found: HostAnswer, wish: str) -> Iterator[str]:
    """What a server on the class's host would have reported meanwhile."""
    yield activity.kernels_word(found.kernels, found.busy)
    if last is not None:
        if found.saves > last.saves:
            yield activity.SAVED
        if found.uses > last.uses:
            yield activity.USED
        if found.sign_ins > last.sign_ins:
            yield activity.SESSION
    if wish:
        yield activity.ended_word(found.ended_kernels)
