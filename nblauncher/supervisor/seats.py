"""The seats of a class: how students' servers are started, watched, stopped and adopted.

What an event means for a seat is decided in `states`; here it is carried out.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.forkserver.requests import Place
from nblauncher.isolation import owners
from nblauncher.isolation.cgroups import Kind
from nblauncher.model import (
    ENDED_ITSELF,
    NO_ANSWER,
    NOT_CONFIRMED,
    Handle,
    JobHandle,
    ServerState,
    handle_words,
)
from nblauncher.server import activity
from nblauncher.supervisor import adoption, ports, states
from nblauncher.supervisor.adopting import Adopting, log_file
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.doings import SignIns
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.on_demand import Waking
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.restarts import Restarts
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.seat import InCluster, Restart, Seat, Stopping
from nblauncher.supervisor.seat_ports import SeatPorts
from nblauncher.supervisor.server_news import News
from nblauncher.supervisor.spawners import KernelForkServer, Order, Spawner, Started
from nblauncher.supervisor.specs import DEFAULT_GRACE
from nblauncher.supervisor.states import Action, Event
from nblauncher.supervisor.stopping import Ending, Exit, ExitWords

log = logging.getLogger(__name__)

START_DEADLINE = 120.0
"""Seconds that a server which the supervisor starts by itself may take until it answers."""


class Seats:
    """All seats of the course. Every method returns at once; what takes time goes on in the loop."""

    def __init__(
        self,
        loop: Loop,
        spawners: Mapping[str, Spawner],
        kernels: KernelForkServer,
        sandboxes: Sandboxes,
        logs: Path,
        sign_ins: SignIns,
    ) -> None:
        self._loop, self._spawners, self._kernels, self._sandboxes = loop, spawners, kernels, sandboxes
        self._logs, self.sign_ins = logs, sign_ins
        self._seats: dict[str, Seat] = {}
        self._early: dict[int, int] = {}
        """Wait status, by pid, of processes that ended before the spawner reported them."""
        self.changed: set[str] = set()
        """Usernames whose facts in the registry are outdated; the registry's writer empties it."""
        self.ports = SeatPorts(self._seats, sandboxes, self._close, self.changed)
        self.waking = Waking(loop, self, self._wake, self._fall_asleep)
        self._news = News(loop, self.on_words)
        self._ending = Ending(loop, kernels, self._cleared, self._unconfirmed)
        self._exits = ExitWords()
        self.adopting = Adopting(loop, self, self._news, sandboxes, self._exits, logs)

    def add(self, seat: Seat) -> None:
        self._seats[seat.username] = seat
        self.changed.add(seat.username)

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def get(self, username: str) -> Seat | None:
        return self._seats.get(username)

    # What commands and the queue of sleeping servers ask for.

    def start(self, seat: Seat, order: Order, spawner: str, done: Callable[[], None]) -> None:
        """Start the student's server; `done` is called when it runs or could not be started (the seat says why).

        The order's memory files are kept, so that a server that dies is started again. HostError when it cannot even
        be tried.
        """
        action = self.decide(seat, Event.START)
        if action is Action.REFUSE:
            why = ": the cluster does not confirm that its job has ended" if seat.is_remote else ""
            raise HostError(f"{seat.username}'s server is still being stopped{why}", "Try again in a moment.")
        if action is Action.KEEP_ORDER:
            self._keep_order(seat, order, spawner)
            done()
            return
        self.waking.forget(seat)
        seat.cancel_timer()
        seat.keep_order(order, spawner)
        seat.restarts = Restarts()
        if action is Action.START:
            self._start(seat, "", done)
        elif seat.stopping is not None:
            self._start_when_cleared(seat, seat.stopping, done)

    def start_on_demand(self, seat: Seat, order: Order, spawner: str) -> None:
        """Start the server when a client connects. HostError as Waking.arm."""
        self._keep_order(seat, order, spawner)
        if self.decide(seat, Event.ARM) is Action.ARM:
            seat.restarts = Restarts()
            self.waking.arm(seat)
            self.changed.add(seat.username)

    def mark_ready(self, seat: Seat) -> None:
        if self.decide(seat, Event.LISTENS) is Action.MARK_READY:
            seat.state = ServerState.READY
            seat.cancel_timer()
            self.changed.add(seat.username)
            log.info("%s's server answers", seat.username)
            self.waking.answers(seat)

    def stop(
        self,
        seat: Seat,
        grace: float,
        done: Callable[[], None] = lambda: None,
        *,
        final_state: ServerState = ServerState.STOPPED,
        reason: str = "",
        keeps_runtime: bool = False,
    ) -> None:
        """Ask the server to end, after `grace` seconds end everything that came from it, then call `done`."""
        action = self.decide(seat, Event.STOP)
        self.waking.forget(seat)
        seat.cancel_timer()
        seat.attempt += 1
        if action is Action.JOIN_STOP and seat.stopping is not None:
            # A server that died and was to be started again stays down.
            seat.stopping.final_state, seat.stopping.reason, seat.stopping.is_requested = final_state, reason, True
            seat.stopping.done.append(done)
            if seat.is_remote and seat.handle is not None:
                seat.stopping.sweeping_since = time.monotonic()
                self._spawners[seat.started_by].stop(seat.handle)
            return
        seat.stopping = Stopping(final_state, reason, is_requested=True, keeps_runtime=keeps_runtime, done=[done])
        if action is Action.TERMINATE and seat.handle is not None:
            log.info("stopping %s's server, %s", seat.username, handle_words(seat.handle))
            seat.state, seat.reason = ServerState.STOPPED, "is being stopped"
            self._spawners[seat.started_by].stop(seat.handle)
            pause = 0.0 if seat.is_remote else grace
            seat.stopping.deadline = self._loop.later(pause, lambda: self._ending.sweep(seat))
            self.changed.add(seat.username)
        else:
            self._ending.sweep(seat)

    def _wake(self, seat: Seat) -> None:
        if self.decide(seat, Event.WAKE) is Action.WAKE:
            self._start_unattended(seat, "")

    def _fall_asleep(self, seat: Seat, reason: str) -> None:
        self.stop(seat, DEFAULT_GRACE, final_state=ServerState.ASLEEP, reason=reason)

    # Starting.

    def _start(self, seat: Seat, reason: str, done: Callable[[], None]) -> None:
        """`reason` stays with the server: why it was started again."""
        order = seat.order
        if order is None:
            raise HostError("what the server is started with is not known", "Run `nblauncher launch`.")
        ports.listen_again(seat.sockets)
        spawner, sandbox = self._spawners[seat.spawner], order.sandbox
        if spawner.is_remote:
            order = replace(order, slurm={**order.slurm, "lost_node": seat.lost_node})
        else:
            sandbox = self._sandboxes.provide(order)
            self._kernels.know(Place(order.account, sandbox))
        seat.started_by, seat.is_remote, seat.cluster = seat.spawner, spawner.is_remote, InCluster()
        seat.is_submitting = spawner.is_remote
        seat.attempt += 1
        seat.state, seat.reason, seat.started_at = ServerState.STARTING, reason, time.time()
        seat.last_lines, seat.unproven, seat.is_idle = (), (), False
        self.changed.add(seat.username)
        answer = partial(self._on_spawner_answer, seat, seat.attempt, done)
        news = self._news.listen(seat)
        try:
            spawner.start(replace(order, news=news, sandbox=sandbox, sign_ins=seat.named_sign_ins()), answer)
        finally:
            os.close(news)

    def _start_when_cleared(self, seat: Seat, stopping: Stopping, done: Callable[[], None]) -> None:
        """What the last server left behind goes first."""
        seat.attempt += 1
        attempt = seat.attempt

        def begin() -> None:
            if seat.attempt == attempt:
                self.waking.forget(seat)
                self._try_to_start(seat, "", done)
            else:
                done()  # a stop came in between

        stopping.done.append(begin)

    def _start_unattended(self, seat: Seat, reason: str) -> None:
        """Start it without a command that waits for it, so with a deadline."""
        self._try_to_start(seat, reason, lambda: None)
        if seat.state is ServerState.STARTING:
            self.expect(seat)

    def expect(self, seat: Seat) -> None:
        """The server must answer before the deadline."""
        seat.cancel_timer()
        seat.timer = self._loop.later(START_DEADLINE, lambda: self._on_too_slow(seat))

    def _try_to_start(self, seat: Seat, reason: str, done: Callable[[], None]) -> None:
        """As _start; if it cannot even be tried, the seat says why."""
        try:
            self._start(seat, reason, done)
        except HostError as error:
            seat.state = ServerState.FAILED
            seat.reason = f"{reason}; it cannot be started: {error.problem}".removeprefix("; ")
            self.changed.add(seat.username)
            done()

    def _on_spawner_answer(
        self, seat: Seat, attempt: int, done: Callable[[], None], result: Started | HostError
    ) -> None:
        is_late, seat.is_submitting = seat.attempt != attempt, False
        if isinstance(result, Started):
            event = Event.SPAWNED_LATE if is_late else Event.SPAWNED
            if self.decide(seat, event) is Action.TAKE:
                self._take(seat, result)
            else:
                self._kill_late(seat, result)
        elif not is_late and self.decide(seat, Event.NOT_SPAWNED) is Action.FAIL:
            seat.cancel_timer()
            seat.state, seat.reason = ServerState.FAILED, result.problem
        self.changed.add(seat.username)
        done()

    def _take(self, seat: Seat, started: Started) -> None:
        handle = seat.handle = started.handle
        log.info("started %s's server on port %d, %s", seat.username, seat.port, handle_words(handle))
        if started.output is not None:
            seat.output = CappedLog(self._loop, started.output, log_file(self._logs, seat))
        if isinstance(handle, Handle) and (status := self._early.pop(handle.pid, None)) is not None:
            self.ended(seat, self._exits.of(seat.group, status))

    def _kill_late(self, seat: Seat, started: Started) -> None:
        """A job is waited for by the stop that came in between."""
        if started.output is not None:
            os.close(started.output)
        if seat.is_remote:
            seat.handle = started.handle
        self._spawners[seat.started_by].kill(started.handle)
        log.info("%s's server, %s, was stopped while it started", seat.username, handle_words(started.handle))

    def on_words(self, seat: Seat, words: Sequence[str]) -> None:
        if activity.LISTENS in words:
            self.mark_ready(seat)
        if activity.SIGNED_IN in words:
            self.waking.signed_in(seat)
        if activity.SESSION in words:
            self.sign_ins.note(seat.username, seat.uid)
        seat.doings.take(words)
        seat.is_idle = seat.is_idle or activity.IDLE in words

    def fail(self, seat: Seat, reason: str) -> None:
        """End a server that will not answer."""
        self.stop(seat, DEFAULT_GRACE, final_state=ServerState.FAILED, reason=reason)

    def _on_too_slow(self, seat: Seat) -> None:
        seat.timer = None
        if self.decide(seat, Event.TOO_SLOW) is Action.GIVE_UP:
            self.fail(seat, NO_ANSWER)

    def _keep_order(self, seat: Seat, order: Order, spawner: str) -> None:
        """Keep the order for the next start; a server that is up is left alone."""
        if seat.order is None or not seat.is_up:
            seat.keep_order(order, spawner)
        if seat.is_up and not isinstance(seat.handle, JobHandle):
            sandbox = self._sandboxes.of_running(order, seat.handle)
            if sandbox is not None:
                self._kernels.know(Place(order.account, sandbox))  # not yet known if it was adopted

    # Ending.

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended. Returns whether it was a student's server."""
        for seat in self:
            if seat.pidfd < 0 and isinstance(seat.handle, Handle) and seat.handle.pid == pid:
                self.ended(seat, self._exits.of(seat.group, status))
                return True
        return False

    def orphan_ended(self, pid: int, status: int) -> None:
        """An unknown process ended: perhaps a server, before the spawner reported that it was forked."""
        if any(seat.state is ServerState.STARTING and seat.handle is None for seat in self):
            self._early[pid] = status
        else:
            self._early.clear()

    def ended(self, seat: Seat, how: Exit) -> None:
        """The server's process, or its job, is gone."""
        action = self.decide(seat, Event.LOST if how.is_lost else Event.ENDED)
        leader, seat.handle = seat.handle, None
        log.info("%s's server, %s, ended: %s", seat.username, handle_words(leader), how.words)
        if seat.pidfd >= 0:
            self._loop.forget(seat.pidfd)
            os.close(seat.pidfd)
            seat.pidfd = -1
        seat.end_output()
        last_words = self._news.last_words(seat)
        seat.is_idle = seat.is_idle or activity.IDLE in last_words
        seat.doings.has_ended()
        seat.cancel_timer()
        self.changed.add(seat.username)
        if action in (Action.CLEAR, Action.CLEAR_AND_RESTART):
            restart = None
            seat.state = ServerState.STOPPED if how.is_clean else ServerState.FAILED
            seat.reason = ENDED_ITSELF if how.is_clean else how.words
            if seat.is_idle and how.is_clean:
                seat.state, seat.reason = ServerState.ASLEEP, "it was not in use"
            elif action is Action.CLEAR_AND_RESTART and seat.order is not None and not how.stays_down:
                restart = seat.plan_restart(time.monotonic())
            # Kill what it left behind first: its kernels have lost their server.
            seat.stopping = Stopping(seat.state, seat.reason, restart=restart)
        self._ending.sweep(seat, leader)

    def _cleared(self, seat: Seat, left: tuple[int, ...]) -> None:
        action, stopping = self.decide(seat, Event.CLEARED), seat.stopping
        if action is Action.NOTHING or stopping is None:
            return
        seat.state, seat.reason, seat.stopping = stopping.final_state, stopping.reason, None
        if left or seat.handle is not None:
            seat.state, seat.reason = ServerState.FAILED, f"processes do not end, not even by SIGKILL: {left}"
            log.error("%s: %s", seat.username, seat.reason)
        if seat.group.kind is Kind.NONE and not seat.is_remote:
            seat.unproven = owners.of_user(seat.uid)
        seat.end_output()
        # Before going to sleep: a pending wake-up starts the server again, in a new sandbox.
        keeps_runtime = stopping.keeps_runtime or seat.state in (ServerState.STARTING, ServerState.ASLEEP)
        self._sandboxes.take_away(seat.uid, keeps_runtime=keeps_runtime)
        if not keeps_runtime:
            seat.sign_ins = ""
        if seat.state is ServerState.ASLEEP:
            try:
                self.waking.arm(seat, seat.reason)
            except HostError as error:
                seat.state, seat.reason = ServerState.FAILED, error.problem
        self.changed.add(seat.username)
        if action is Action.SETTLE_AND_PAUSE and stopping.restart and seat.state is ServerState.STARTING:
            restart = partial(self._on_pause_over, seat, stopping.restart)
            seat.timer, seat.is_pausing = self._loop.later(stopping.restart.pause, restart), True
        for call in stopping.done:
            call()

    def _unconfirmed(self, seat: Seat) -> None:
        """The commands that wait get an answer. The seat takes no new server until the end of the job is confirmed."""
        stopping = seat.stopping
        if stopping is not None:
            seat.state, seat.reason = ServerState.UNKNOWN, f"{handle_words(seat.handle)} is to end; {NOT_CONFIRMED}"
            log.warning("%s: %s", seat.username, seat.reason)
            self.changed.add(seat.username)
            waiting, stopping.done = stopping.done, []
            for call in waiting:
                call()

    def _on_pause_over(self, seat: Seat, restart: Restart) -> None:
        action = self.decide(seat, Event.PAUSE_OVER)
        seat.timer, seat.is_pausing = None, False
        if action is Action.RESTART:
            self._start_unattended(seat, restart.reason)

    # The next supervisor.

    def remembered(self) -> dict[str, Remembered | None]:
        """The seats that changed; None for a student whose seat is gone."""
        return {name: adoption.remembered(self._seats.get(name)) for name in self.changed}

    def close(self) -> None:
        self.sign_ins.close()
        for seat in self._seats.values():
            self._close(seat)

    def _close(self, seat: Seat) -> None:
        self.waking.forget(seat)
        self._news.hang_up(seat)
        seat.close()

    def decide(self, seat: Seat, event: Event) -> Action:
        return states.decide(seat.username, seat.phase, event)
