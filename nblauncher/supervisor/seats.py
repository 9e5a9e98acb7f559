"""The students of a class as the supervisor keeps them: how their servers are started, stopped and adopted."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nblauncher import limits, memory, processes, reasons, server_activity
from nblauncher.cgroups import Kind
from nblauncher.errors import HostError
from nblauncher.fork_requests import Place
from nblauncher.model import ServerState
from nblauncher.spawners import KernelForkServer, Order, Spawner, Started
from nblauncher.supervisor import adoption, ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.ending import Ending
from nblauncher.supervisor.loop import Loop, exit_words
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.restarts import PAUSES, Restarts
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.seat import Behind, Seat, Stopping
from nblauncher.supervisor.specs import DEFAULT_GRACE, ServerReport
from nblauncher.supervisor.waking import Waking

log = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds that a server which the supervisor starts by itself may take until it listens."""

_UP = (ServerState.STARTING.value, ServerState.READY.value)
_MOST_NEWS = 16
"""Words that a server may send: it has three."""


class Seats:
    """All students of the course. Every method returns at once; what takes time goes on in the loop."""

    def __init__(
        self,
        loop: Loop,
        spawners: Mapping[str, Spawner],
        kernels: KernelForkServer,
        sandboxes: Sandboxes,
        logs: Path,
    ) -> None:
        self._loop, self._spawners, self._kernels, self._sandboxes = loop, spawners, kernels, sandboxes
        self._logs = logs
        self._seats: dict[str, Seat] = {}
        self._early: dict[int, int] = {}
        self.waking = Waking(loop, self, self._wake, self._fall_asleep)
        self.changed: set[str] = set()
        """Whose facts to be remembered are new; whoever remembers them empties it."""
        self._ending = Ending(loop, kernels, sandboxes, self.waking.lay_down, self.changed)
        self._memory_kills = memory.kills()
        """As of the last time that a server ended."""

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def get(self, username: str) -> Seat | None:
        return self._seats.get(username)

    def bind(
        self, username: str, uid: int, port: int, addresses: Sequence[str], behind: Behind | None = None
    ) -> list[str]:
        """Hold this port for this student, or the socket behind the proxy; notes for the teacher. Nothing happens when
        it is held already.

        HostError when somebody else has it, or while the student's server runs on another one.
        """
        seat = self._seats.get(username)
        if seat is not None and (seat.uid, seat.port) == (uid, port) and seat.is_at(behind):
            ports.listen_again(seat.sockets)
            return []
        if seat is not None and (seat.is_up or seat.stopping):
            raise HostError(f"{username}'s server still runs on port {seat.port}", "Stop it first: nblauncher shutdown")
        if behind is None:
            sockets, notes = ports.open_port(port, addresses)
        else:
            sockets, notes = ports.open_socket(behind.folder / f"{uid}.sock", behind.gid), []
        if seat is None or (seat.uid, seat.port) != (uid, port):
            if seat is not None:
                self._close(seat)
            seat = self._seats[username] = Seat(username, uid, port, self._sandboxes.group(uid))
        for one in seat.sockets:
            one.close()
        seat.sockets = sockets
        self.changed.add(username)
        return notes

    def show(self) -> None:
        """Behind a proxy: whoever has a server, or gets one by coming, can be reached."""
        for username in self.changed:
            seat = self._seats.get(username)
            if seat is not None:
                ports.show(seat.sockets, is_shown=seat.is_up or seat.state is ServerState.ASLEEP)

    def drop(self, username: str) -> None:
        """Let go of a student's port. HostError while the server runs."""
        seat = self._seats.get(username)
        if seat is None:
            return
        if seat.is_up or seat.stopping:
            raise HostError(f"{username}'s server still runs", "Stop it first: nblauncher shutdown")
        self._close(seat)
        del self._seats[username]
        self.changed.add(username)

    def start(self, seat: Seat, order: Order, spawner: str, done: Callable[[], None]) -> None:
        """Start the student's server; `done` is called when it runs or could not be started (the seat says why).

        The order's memory files are kept, so that a server that dies is started again. HostError when it cannot even
        be tried.
        """
        if seat.stopping is not None and seat.stopping.is_asked:
            raise HostError(f"{seat.username}'s server is still being stopped", "Try again in a moment.")
        self.waking.forget(seat)
        seat.cancel_timer()
        seat.keep_order(order, spawner)
        seat.restarts = Restarts()
        if seat.stopping is None:
            self._start(seat, "", done)
            return
        seat.attempt += 1
        attempt = seat.attempt

        def begin() -> None:
            if seat.attempt == attempt:
                self._try_to_start(seat, "", done)
            else:
                done()  # somebody wants it stopped after all

        # What the last one left behind goes first.
        seat.stopping.done.append(begin)

    def keep(self, seat: Seat, order: Order, spawner: str) -> None:
        """What the seat's server is to be started with when it is; one that is up is left alone."""
        if seat.order is None or not seat.is_up:
            seat.keep_order(order, spawner)
        if seat.is_up:
            sandbox = self._sandboxes.of_running(order, seat.handle)
            if sandbox is not None:
                self._kernels.know(Place(order.account, sandbox))  # it was adopted, perhaps

    def lay_down(self, seat: Seat) -> None:
        """Have it started when somebody comes. Nothing happens when it is up already. HostError as Waking.lay_down."""
        if not seat.is_up and seat.stopping is None:
            seat.restarts = Restarts()
            self.waking.lay_down(seat)
            self.changed.add(seat.username)

    def _wake(self, seat: Seat) -> None:
        self._try_to_start(seat, "", lambda: None)
        self._be_patient(seat)

    def _fall_asleep(self, seat: Seat, reason: str) -> None:
        self.stop(seat, DEFAULT_GRACE, lambda: None, final_state=ServerState.ASLEEP, reason=reason)

    def _be_patient(self, seat: Seat) -> None:
        """Nobody else waits for a server that we started by ourselves."""

        def give_up() -> None:
            seat.timer = None
            if seat.state is ServerState.STARTING:
                reason = reasons.NO_ANSWER
                self.stop(seat, DEFAULT_GRACE, lambda: None, final_state=ServerState.FAILED, reason=reason)

        if seat.state is ServerState.STARTING:
            seat.timer = self._loop.later(PATIENCE, give_up)

    def _try_to_start(self, seat: Seat, reason: str, done: Callable[[], None]) -> None:
        """As _start; where it cannot even be tried the seat says why."""
        try:
            self._start(seat, reason, done)
        except HostError as error:
            seat.state = ServerState.FAILED
            seat.reason = f"{reason}; it cannot be started: {error.problem}".removeprefix("; ")
            self.changed.add(seat.username)
            done()

    def _start(self, seat: Seat, reason: str, done: Callable[[], None]) -> None:
        """`reason` stays with the server: why it was started again."""
        order = seat.order
        if order is None:
            raise HostError("nobody said what it is started with", "Run `nblauncher launch`.")
        ports.listen_again(seat.sockets)
        sandbox = self._sandboxes.provide(order)
        self._kernels.know(Place(order.account, sandbox))
        seat.attempt += 1
        seat.state, seat.reason, seat.started_at = ServerState.STARTING, reason, time.time()
        seat.last_lines, seat.unproven, seat.is_idle = (), (), False
        self.changed.add(seat.username)
        attempt = seat.attempt

        def answer(result: Started | HostError) -> None:
            if isinstance(result, HostError):
                if seat.attempt == attempt and seat.state is ServerState.STARTING:
                    seat.state, seat.reason = ServerState.FAILED, result.problem
            elif seat.attempt == attempt and seat.state is ServerState.STARTING:
                self._started(seat, result)
            else:
                self._came_too_late(seat, result)
            self.changed.add(seat.username)
            done()

        news, told = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(news, False)
        self._listen(seat, news)
        try:
            self._spawners[seat.spawner].start(replace(order, news=told, sandbox=sandbox), answer)
        finally:
            os.close(told)

    def _listen(self, seat: Seat, news: int) -> None:
        """The student's process is believed about itself alone, in few words; whoever says more is not heard."""
        self._hang_up(seat)
        seat.news = news
        left = _MOST_NEWS

        def heard() -> None:
            nonlocal left
            words = os.read(news, 256).decode("ascii", errors="replace").split()
            left -= len(words)
            if not words or left < 0 or not server_activity.WORDS.issuperset(words):
                self._hang_up(seat)
                return
            if server_activity.LISTENS in words:
                self.mark_ready(seat)
            if server_activity.SIGNED_IN in words:
                self.waking.proven(seat)
            seat.is_idle = seat.is_idle or server_activity.IDLE in words

        self._loop.watch(news, heard)

    def _hang_up(self, seat: Seat) -> None:
        if seat.news >= 0:
            self._loop.forget(seat.news)
            os.close(seat.news)
            seat.news = -1

    def _started(self, seat: Seat, started: Started) -> None:
        seat.handle = started.handle
        seat.output = CappedLog(self._loop, started.output, self._log_file(seat))
        log.info("started %s's server on port %d, pid %d", seat.username, seat.port, started.handle.pid)
        if (status := self._early.pop(started.handle.pid, None)) is not None:
            self._ended(seat, status)

    def _came_too_late(self, seat: Seat, started: Started) -> None:
        """The server was stopped before it was started."""
        os.close(started.output)
        processes.send_signal(started.handle, signal.SIGKILL)
        log.info("%s's server, pid %d, was stopped while it started", seat.username, started.handle.pid)

    def mark_ready(self, seat: Seat) -> None:
        if seat.state is ServerState.STARTING:
            seat.state = ServerState.READY
            seat.cancel_timer()
            self.changed.add(seat.username)
            log.info("%s's server answers", seat.username)
            self.waking.answers(seat)

    def stop(
        self,
        seat: Seat,
        grace: float,
        done: Callable[[], None],
        *,
        final_state: ServerState = ServerState.STOPPED,
        reason: str = "",
    ) -> None:
        """Ask the server to end, after `grace` seconds end everything that came from it, then call `done`."""
        self.waking.forget(seat)
        seat.cancel_timer()
        seat.attempt += 1
        if seat.stopping is not None:
            seat.stopping.done.append(done)
            # A server that died and was to be started again stays down.
            seat.stopping.final_state, seat.stopping.reason, seat.stopping.is_asked = final_state, reason, True
            return
        seat.stopping = Stopping(final_state, reason, is_asked=True, done=[done])
        if seat.is_up and seat.handle is not None:
            log.info("stopping %s's server, pid %d", seat.username, seat.handle.pid)
            seat.state, seat.reason = ServerState.STOPPED, "is being stopped"
            self._spawners[seat.spawner].stop(seat.handle)
            seat.stopping.deadline = self._loop.later(grace, lambda: self._ending.sweep(seat))
            self.changed.add(seat.username)
        else:
            self._ending.sweep(seat)

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended: whether it was a student's server."""
        seat = next((seat for seat in self if seat.watch < 0 and seat.handle and seat.handle.pid == pid), None)
        if seat is None:
            return False
        self._ended(seat, status)
        return True

    def orphan_ended(self, pid: int, status: int) -> None:
        """Somebody whom we do not know: perhaps a server that ended before we heard that it was forked."""
        if any(seat.state is ServerState.STARTING and seat.handle is None for seat in self):
            self._early[pid] = status
        else:
            self._early.clear()

    def report(self, seat: Seat) -> ServerReport:
        return ServerReport(
            username=seat.username,
            uid=seat.uid,
            port=seat.port,
            state=seat.state,
            handle=seat.handle,
            reason=seat.reason,
            group=str(seat.group.path) if seat.group.kind is not Kind.NONE else "",
            started_at=seat.started_at,
            last_lines=seat.last_lines,
            unproven=seat.unproven,
            pressure=self._pressure(seat),
        )

    def _pressure(self, seat: Seat) -> tuple[str, ...]:
        """What the student ran into, in words; that of a server which is gone went with its group."""
        if seat.order is None or not seat.is_up:
            return ()
        found = limits.pressure(seat.group).words(seat.order.sandbox.limits)
        if seat.output is not None and seat.output.is_flooded:
            found.append("floods the log")
        return tuple(found)

    def remembered(self) -> dict[str, Remembered | None]:
        """Those who changed; None for whom there is no seat any more."""
        return {name: adoption.remembered(self._seats.get(name)) for name in self.changed}

    def adopt(self, one: Remembered) -> None:
        """Take over a server that the last supervisor left running, without touching it.

        What cannot be verified (another process by now, another uid, no such socket) is not adopted: what is left in
        the student's group is ended, and the port is bound anew by the next `bind`.
        """
        seat = Seat(one.username, one.uid, one.port, self._sandboxes.group(one.uid))
        self._seats[one.username] = seat
        seat.state, seat.reason, seat.started_at = ServerState.STOPPED, one.reason, one.started_at
        self.changed.add(seat.username)
        if one.state not in _UP or one.handle is None:
            seat.state = ServerState.FAILED if one.state == ServerState.FAILED.value else ServerState.STOPPED
            return
        try:
            taken = adoption.take(one, one.handle)
        except adoption.NotAdopted as error:
            self._not_adopted(seat, str(error))
            return
        seat.sockets = taken.sockets
        seat.output = CappedLog(self._loop, taken.output, self._log_file(seat)) if taken.output is not None else None
        seat.handle, seat.watch = one.handle, taken.pidfd
        seat.state, seat.reason = ServerState(one.state), ""
        self._loop.watch(taken.pidfd, lambda: self._ended(seat, None))
        log.info("adopted %s's server, pid %d, on port %d", seat.username, one.handle.pid, seat.port)

    def close(self) -> None:
        for seat in self._seats.values():
            self._close(seat)

    def _close(self, seat: Seat) -> None:
        self.waking.forget(seat)
        self._hang_up(seat)
        seat.close()

    def _not_adopted(self, seat: Seat, why: str) -> None:
        log.warning("%s's server was not adopted: %s", seat.username, why)
        reason = f"was not adopted: {why}"
        self.stop(seat, 0.0, lambda: None, final_state=ServerState.FAILED, reason=reason)

    def _ended(self, seat: Seat, status: int | None) -> None:
        """The server's process is gone; `status` is None when we were not its parent."""
        words = self._words(seat, status)
        pid = seat.handle.pid if seat.handle else 0
        log.info("%s's server, pid %d, ended: %s", seat.username, pid, words)
        if seat.watch >= 0:
            self._loop.forget(seat.watch)
            os.close(seat.watch)
            seat.watch = -1
        leader, seat.handle = seat.handle, None
        seat.end_output()
        self._hear_last_words(seat)
        seat.cancel_timer()
        self.changed.add(seat.username)
        if seat.stopping is not None:
            self._ending.sweep(seat, leader)
            return
        was_ready = seat.state is ServerState.READY
        seat.state = ServerState.STOPPED if status == 0 else ServerState.FAILED
        seat.reason = reasons.ENDED_ITSELF if status == 0 else words
        then: list[Callable[[], None]] = []
        if seat.is_idle and status == 0:
            seat.state, seat.reason = ServerState.ASLEEP, "nobody needed it"
        elif was_ready and seat.order is not None:
            then.append(self._start_again(seat))
        # Everything that came from it goes first: its kernels are nobody's any more.
        seat.stopping = Stopping(seat.state, seat.reason, done=then)
        self._ending.sweep(seat, leader)

    def _words(self, seat: Seat, status: int | None) -> str:
        """How a server ended. Who did a SIGKILL is not told to anybody; that memory ran out meanwhile is."""
        before, self._memory_kills = self._memory_kills, memory.kills()
        if status is None:
            return "it ended; how is not known, because it was adopted"
        # The host's count alone may be of somebody else's group.
        count = limits.pressure(seat.group).memory_kills or self._memory_kills - before
        ran_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and count > 0
        return f"{exit_words(status)}, {reasons.OUT_OF_MEMORY}" if ran_out else exit_words(status)

    def _hear_last_words(self, seat: Seat) -> None:
        """Its end may be known before what it said about it."""
        if seat.news >= 0:
            with contextlib.suppress(BlockingIOError):
                seat.is_idle = server_activity.IDLE in os.read(seat.news, 256).decode("ascii", errors="replace").split()
        self._hang_up(seat)

    def _start_again(self, seat: Seat) -> Callable[[], None]:
        """Decide, and say in the seat, what follows a death; what is returned does it."""
        why, pause = seat.reason, seat.restarts.pause(time.monotonic())
        if pause is None:
            seat.state = ServerState.FAILED
            seat.reason = f"{why}; it was started again {len(PAUSES)} times within a minute {reasons.STAYS_DOWN}"
            log.error("%s's server: %s", seat.username, seat.reason)
            return lambda: None
        seat.state, seat.reason = ServerState.STARTING, f"{why}; it is started again"
        log.info("%s's server is started again in %.0f s", seat.username, pause)

        def begin() -> None:
            seat.timer, seat.is_pausing = None, False
            self._try_to_start(seat, f"{why}; it was started again", lambda: None)
            self._be_patient(seat)

        def swept() -> None:
            if seat.state is ServerState.STARTING:
                seat.timer, seat.is_pausing = self._loop.later(pause, begin), True

        return swept

    def _log_file(self, seat: Seat) -> Path:
        return self._logs / f"{seat.username}.log"
