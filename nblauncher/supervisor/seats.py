"""The students of a class as the supervisor keeps them: a seat is a port that is held and perhaps a server on it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nblauncher import cgroups, processes, runtime_folders
from nblauncher.cgroups import Group, Groups, Kind
from nblauncher.descriptors import Listener, describe, take_listener, take_pipe
from nblauncher.errors import HostError
from nblauncher.model import Handle, ServerState
from nblauncher.spawners import Order, Spawner, Started
from nblauncher.supervisor import ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import Loop, Timer, exit_words
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.restarts import PAUSES, Restarts
from nblauncher.supervisor.specs import ServerReport
from nblauncher.wire import close_all

log = logging.getLogger(__name__)

SWEEP_DEADLINE = 10.0
"""Seconds that killed processes may take to be gone."""

_SWEEP_PAUSE = 0.05
_QUIET_ROUNDS = 6
"""Without groups, a process that forks and exits all the time can be missed by a look at /proc, not by so many."""

_UP = (ServerState.STARTING, ServerState.READY)


@dataclass
class Seat:
    """One student. `watch` is a pidfd for a server that is not our child (it was adopted), else -1."""

    username: str
    uid: int
    port: int
    group: Group
    sockets: list[socket.socket] = field(default_factory=list)
    state: ServerState = ServerState.STOPPED
    reason: str = ""
    handle: Handle | None = None
    output: CappedLog | None = None
    started_at: float = 0.0
    watch: int = -1
    stopping: Stopping | None = None
    last_lines: tuple[str, ...] = ()
    unproven: tuple[int, ...] = ()
    spawner: str = "process"
    order: Order | None = None
    """What it was started with last, to start it again; its memory files are the seat's own. None after an adoption."""
    ready: int = -1
    """Where it says that it listens, until it has."""
    restarts: Restarts = field(default_factory=Restarts)
    again: Timer | None = None
    """A start that is to come."""
    attempt: int = 0
    """Which start the server comes from: an answer to an earlier one comes too late."""

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(map(describe, self.sockets))

    @property
    def is_up(self) -> bool:
        return self.state in _UP


@dataclass
class Stopping:
    """A stop under way: what follows it, and until when politeness or patience lasts."""

    final_state: ServerState
    reason: str
    deadline: Timer | None = None
    sweeping_since: float = 0.0
    quiet_rounds: int = 0
    done: list[Callable[[], None]] = field(default_factory=list)


class Seats:
    """All students of the course. Every method returns at once; what takes time goes on in the loop."""

    def __init__(self, loop: Loop, spawners: Mapping[str, Spawner], groups: Groups, logs: Path, runtime: Path) -> None:
        self._loop, self._spawners, self._groups = loop, spawners, groups
        self._logs, self._runtime = logs, runtime
        self._seats: dict[str, Seat] = {}
        self._early: dict[int, int] = {}
        self.is_changed = False
        """Something that is to be remembered is new; whoever remembers it sets this back."""

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def get(self, username: str) -> Seat | None:
        return self._seats.get(username)

    def bind(self, username: str, uid: int, port: int, addresses: Sequence[str]) -> list[str]:
        """Hold this port for this student; notes for the teacher. Nothing happens when it is held already.

        HostError when somebody else has it, or while the student's server runs on another one.
        """
        seat = self._seats.get(username)
        if seat is not None and (seat.uid, seat.port) == (uid, port) and seat.sockets:
            ports.listen_again(seat.sockets)
            return []
        if seat is not None and (seat.is_up or seat.stopping):
            raise HostError(f"{username}'s server still runs on port {seat.port}", "Stop it first: nblauncher shutdown")
        sockets, notes = ports.open_port(port, addresses)
        if seat is None or (seat.uid, seat.port) != (uid, port):
            if seat is not None:
                _close(seat)
            seat = self._seats[username] = Seat(username, uid, port, self._groups.group(f"student-{uid}"))
        seat.sockets = sockets
        self.is_changed = True
        return notes

    def drop(self, username: str) -> None:
        """Let go of a student's port. HostError while the server runs."""
        seat = self._seats.get(username)
        if seat is None:
            return
        if seat.is_up or seat.stopping:
            raise HostError(f"{username}'s server still runs", "Stop it first: nblauncher shutdown")
        _close(seat)
        del self._seats[username]
        self.is_changed = True

    def start(self, seat: Seat, order: Order, spawner: str, done: Callable[[], None]) -> None:
        """Start the student's server; `done` is called when it runs or could not be started (the seat says why).

        The order's memory files are kept, so that a server that dies is started again. HostError when it cannot even
        be tried.
        """
        if seat.stopping:
            raise HostError(f"{seat.username}'s server is still being stopped", "Try again in a moment.")
        _keep_order(seat, order)
        seat.spawner, seat.restarts = spawner, Restarts()
        self._start(seat, order, "", done)

    def _start(self, seat: Seat, order: Order, reason: str, done: Callable[[], None]) -> None:
        """`reason` stays with the server: why it was started again."""
        runtime_folders.provide(self._runtime, order.account)
        seat.group.create()
        seat.attempt += 1
        seat.state, seat.reason, seat.started_at = ServerState.STARTING, reason, time.time()
        seat.last_lines, seat.unproven = (), ()
        self.is_changed = True
        attempt = seat.attempt

        def answer(result: Started | HostError) -> None:
            if isinstance(result, HostError):
                if seat.attempt == attempt and seat.state is ServerState.STARTING:
                    seat.state, seat.reason = ServerState.FAILED, result.problem
            elif seat.attempt == attempt and seat.state is ServerState.STARTING:
                self._started(seat, result)
            else:
                self._came_too_late(seat, result)
            self.is_changed = True
            done()

        ready, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._listen_for_ready(seat, ready)
        try:
            self._spawners[seat.spawner].start(replace(order, ready=told), answer)
        finally:
            os.close(told)

    def _listen_for_ready(self, seat: Seat, ready: int) -> None:
        """Its own word counts for a server that we started again; the first time somebody asks it (`mark_ready`)."""
        self._forget_ready(seat)
        seat.ready = ready

        def heard() -> None:
            is_word = bool(os.read(ready, 16))
            self._forget_ready(seat)
            if is_word and seat.restarts.deaths:
                self.mark_ready(seat)

        self._loop.watch(ready, heard)

    def _forget_ready(self, seat: Seat) -> None:
        if seat.ready >= 0:
            self._loop.forget(seat.ready)
            os.close(seat.ready)
            seat.ready = -1

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
            self.is_changed = True
            log.info("%s's server answers", seat.username)

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
        if seat.again is not None:
            seat.again.cancel()
            seat.again = None
        if seat.stopping is not None:
            seat.stopping.done.append(done)
            # A server that died and was to be started again stays down.
            seat.stopping.final_state, seat.stopping.reason = final_state, reason
            return
        seat.stopping = Stopping(final_state, reason, done=[done])
        if seat.is_up and seat.handle is not None:
            log.info("stopping %s's server, pid %d", seat.username, seat.handle.pid)
            seat.state, seat.reason = ServerState.STOPPED, "is being stopped"
            self._spawners[seat.spawner].stop(seat.handle)
            seat.stopping.deadline = self._loop.later(grace, lambda: self._sweep(seat))
            self.is_changed = True
        else:
            self._sweep(seat)

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
        )

    def remembered(self) -> tuple[Remembered, ...]:
        return tuple(
            Remembered(
                seat.username,
                seat.uid,
                seat.port,
                seat.listeners,
                seat.state.value,
                seat.reason,
                seat.handle,
                seat.output.inode if seat.output else 0,
                seat.started_at,
            )
            for seat in self._seats.values()
        )

    def adopt(self, one: Remembered) -> None:
        """Take over a server that the last supervisor left running, without touching it.

        What cannot be verified (another process by now, another uid, no such socket) is not adopted: what is left in
        the student's group is ended, and the port is bound anew by the next `bind`.
        """
        seat = Seat(one.username, one.uid, one.port, self._groups.group(f"student-{one.uid}"))
        self._seats[one.username] = seat
        seat.state, seat.reason, seat.started_at = ServerState.STOPPED, one.reason, one.started_at
        self.is_changed = True
        if one.state not in {state.value for state in _UP} or one.handle is None:
            seat.state = ServerState.FAILED if one.state == ServerState.FAILED.value else ServerState.STOPPED
            return
        pidfd = processes.open_handle(one.handle)
        if pidfd is None:
            self._not_adopted(seat, "it ended while nobody watched")
            return
        seat.sockets = _take_sockets(pidfd, one)
        if len(seat.sockets) != len(one.listeners) or not one.listeners or not _is_run_by(one.handle.pid, one.uid):
            os.close(pidfd)
            _close(seat)
            self._not_adopted(seat, "its process could not be verified")
            return
        pipe = take_pipe(pidfd, one.handle.pid, one.pipe_inode)
        seat.output = CappedLog(self._loop, pipe, self._log_file(seat)) if pipe is not None else None
        seat.handle, seat.watch = one.handle, pidfd
        seat.state, seat.reason = ServerState(one.state), ""
        self._loop.watch(pidfd, lambda: self._ended(seat, None))
        log.info("adopted %s's server, pid %d, on port %d", seat.username, one.handle.pid, seat.port)

    def close(self) -> None:
        for seat in self._seats.values():
            _close(seat)

    def _not_adopted(self, seat: Seat, why: str) -> None:
        log.warning("%s's server was not adopted: %s", seat.username, why)
        reason = f"was not adopted: {why}"
        self.stop(seat, 0.0, lambda: None, final_state=ServerState.FAILED, reason=reason)

    def _ended(self, seat: Seat, status: int | None) -> None:
        """The server's process is gone; `status` is None when we were not its parent."""
        words = "it ended; how is not known, because it was adopted" if status is None else exit_words(status)
        pid = seat.handle.pid if seat.handle else 0
        log.info("%s's server, pid %d, ended: %s", seat.username, pid, words)
        if seat.watch >= 0:
            self._loop.forget(seat.watch)
            os.close(seat.watch)
            seat.watch = -1
        leader, seat.handle = seat.handle, None
        self._end_output(seat)
        self._forget_ready(seat)
        self.is_changed = True
        if seat.stopping is not None:
            self._sweep(seat, leader)
            return
        was_ready = seat.state is ServerState.READY
        seat.state = ServerState.STOPPED if status == 0 else ServerState.FAILED
        seat.reason = "it ended by itself" if status == 0 else words
        again = self._start_again(seat, seat.order) if was_ready and seat.order is not None else lambda: None
        # Everything that came from it goes first: its kernels are nobody's any more.
        seat.stopping = Stopping(seat.state, seat.reason, done=[again])
        self._sweep(seat, leader)

    def _start_again(self, seat: Seat, order: Order) -> Callable[[], None]:
        """Decide, and say in the seat, what follows a death; what is returned does it."""
        why, pause = seat.reason, seat.restarts.pause(time.monotonic())
        if pause is None:
            seat.state = ServerState.FAILED
            seat.reason = f"{why}; it was started again {len(PAUSES)} times within a minute and stays down"
            log.error("%s's server: %s", seat.username, seat.reason)
            return lambda: None
        seat.state, seat.reason = ServerState.STARTING, f"{why}; it is started again"
        log.info("%s's server is started again in %.0f s", seat.username, pause)

        def begin() -> None:
            seat.again = None
            try:
                self._start(seat, order, f"{why}; it was started again", lambda: None)
            except HostError as error:
                seat.state, seat.reason = ServerState.FAILED, f"{why}; it cannot be started again: {error.problem}"
                self.is_changed = True

        def swept() -> None:
            if seat.state is ServerState.STARTING:
                seat.again = self._loop.later(pause, begin)

        return swept

    def _sweep(self, seat: Seat, leader: Handle | None = None) -> None:
        """End everything that came from the server; once nobody is left, the stop is done."""
        stopping = seat.stopping
        if stopping is None:
            return
        if stopping.deadline is not None:
            stopping.deadline.cancel()
        leader = leader or seat.handle
        if stopping.sweeping_since == 0.0:
            stopping.sweeping_since = time.monotonic()
        left = self._left(seat, leader)
        is_empty = not left and seat.group.is_empty()
        stopping.quiet_rounds = stopping.quiet_rounds + 1 if is_empty else 0
        is_quiet = stopping.quiet_rounds >= (_QUIET_ROUNDS if seat.group.kind is Kind.NONE else 1)
        is_overdue = time.monotonic() - stopping.sweeping_since > SWEEP_DEADLINE
        if (not is_quiet or seat.handle is not None) and not is_overdue:
            self._kill(seat, leader)
            stopping.deadline = self._loop.later(_SWEEP_PAUSE, lambda: self._sweep(seat, leader))
            return
        self._stopped(seat, stopping, left)

    def _stopped(self, seat: Seat, stopping: Stopping, left: tuple[int, ...]) -> None:
        seat.state, seat.reason, seat.stopping = stopping.final_state, stopping.reason, None
        if left or seat.handle is not None:
            seat.state, seat.reason = ServerState.FAILED, f"processes do not end, not even by SIGKILL: {left}"
            log.error("%s: %s", seat.username, seat.reason)
        if seat.group.kind is Kind.NONE:
            seat.unproven = cgroups.of_user(seat.uid)
        self._end_output(seat)
        seat.group.remove()
        if seat.state is not ServerState.STARTING:  # who is signed in stays so when it is started again
            runtime_folders.take_away(self._runtime, seat.uid)
        self.is_changed = True
        for call in stopping.done:
            call()

    def _left(self, seat: Seat, leader: Handle | None) -> tuple[int, ...]:
        if seat.group.kind is not Kind.NONE:
            return seat.group.pids()
        return cgroups.provable(seat.uid, leader.pid if leader else 0, os.getpid())

    def _kill(self, seat: Seat, leader: Handle | None) -> None:
        if seat.group.kind is not Kind.NONE:
            seat.group.kill()
        else:
            cgroups.kill_proven(seat.uid, leader.pid if leader else 0, os.getpid())

    def _end_output(self, seat: Seat) -> None:
        if seat.output is not None:
            seat.output.close()
            seat.last_lines = seat.output.last_lines()
            seat.output = None

    def _log_file(self, seat: Seat) -> Path:
        return self._logs / f"{seat.username}.log"


def _keep_order(seat: Seat, order: Order) -> None:
    """The memory files are duplicated, those of the last order closed."""
    kept = replace(
        order,
        config=os.dup(order.config),
        certificate=None if order.certificate is None else os.dup(order.certificate),
        key=None if order.key is None else os.dup(order.key),
    )
    _forget_order(seat)
    seat.order = kept


def _forget_order(seat: Seat) -> None:
    if seat.order is not None:
        close_all([one for one in (seat.order.config, seat.order.certificate, seat.order.key) if one is not None])
        seat.order = None


def _take_sockets(pidfd: int, one: Remembered) -> list[socket.socket]:
    taken = (take_listener(pidfd, one.handle.pid, wanted) for wanted in one.listeners if one.handle is not None)
    return [socket for socket in taken if socket is not None]


def _is_run_by(pid: int, uid: int) -> bool:
    """Whether all of the process's uids are this one."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    return set(cgroups.uids_in(status)) == {uid}


def _close(seat: Seat) -> None:
    for one in seat.sockets:
        one.close()
    seat.sockets = []
    _forget_order(seat)
