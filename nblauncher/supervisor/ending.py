"""The end of a server: everything that came from it goes, and then what held it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from nblauncher import owners
from nblauncher.cgroups import Kind
from nblauncher.errors import HostError
from nblauncher.model import Handle, ServerState
from nblauncher.spawners import KernelForkServer
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.seat import Seat, Stopping

log = logging.getLogger(__name__)

SWEEP_DEADLINE = 10.0
"""Seconds that killed processes may take to be gone."""

_SWEEP_PAUSE = 0.05
_QUIET_ROUNDS = 6
"""Without groups, a process that forks and exits all the time can be missed by a look at /proc, not by so many."""


class Ending:
    """`lie_down` has the server of a seat started when somebody comes; HostError when it cannot be."""

    def __init__(
        self,
        loop: Loop,
        kernels: KernelForkServer,
        sandboxes: Sandboxes,
        lie_down: Callable[[Seat, str], None],
        changed: set[str],
    ) -> None:
        self._loop, self._kernels, self._sandboxes, self._lie_down = loop, kernels, sandboxes, lie_down
        self._changed = changed

    def sweep(self, seat: Seat, leader: Handle | None = None) -> None:
        """End everything that came from the server; once nobody is left, the stop is done."""
        stopping = seat.stopping
        if stopping is None:
            return
        if stopping.deadline is not None:
            stopping.deadline.cancel()
        leader = leader or seat.handle
        if stopping.sweeping_since == 0.0:
            stopping.sweeping_since = time.monotonic()
            self._kernels.forget(seat.uid)
        # Asked first: once it has forgotten, nobody new comes into the group.
        has_forgotten = self._kernels.has_forgotten(seat.uid)
        left = _left(seat, leader)
        is_empty = has_forgotten and not left and seat.group.is_empty()
        stopping.quiet_rounds = stopping.quiet_rounds + 1 if is_empty else 0
        is_quiet = stopping.quiet_rounds >= (_QUIET_ROUNDS if seat.group.kind is Kind.NONE else 1)
        is_overdue = time.monotonic() - stopping.sweeping_since > SWEEP_DEADLINE
        if (not is_quiet or seat.handle is not None) and not is_overdue:
            _kill(seat, leader)
            stopping.deadline = self._loop.later(_SWEEP_PAUSE, lambda: self.sweep(seat, leader))
            return
        self._stopped(seat, stopping, left)

    def _stopped(self, seat: Seat, stopping: Stopping, left: tuple[int, ...]) -> None:
        seat.state, seat.reason, seat.stopping = stopping.final_state, stopping.reason, None
        if left or seat.handle is not None:
            seat.state, seat.reason = ServerState.FAILED, f"processes do not end, not even by SIGKILL: {left}"
            log.error("%s: %s", seat.username, seat.reason)
        if seat.group.kind is Kind.NONE:
            seat.unproven = owners.of_user(seat.uid)
        seat.end_output()
        # Before it lies down: who was called meanwhile is started by that, in a sandbox anew.
        keeps_runtime = seat.state in (ServerState.STARTING, ServerState.ASLEEP)
        self._sandboxes.take_away(seat.uid, keeps_runtime=keeps_runtime)
        if seat.state is ServerState.ASLEEP:
            try:
                self._lie_down(seat, seat.reason)
            except HostError as error:
                seat.state, seat.reason = ServerState.FAILED, error.problem
        self._changed.add(seat.username)
        for call in stopping.done:
            call()


def _left(seat: Seat, leader: Handle | None) -> tuple[int, ...]:
    if seat.group.kind is not Kind.NONE:
        return seat.group.pids()
    return owners.provable(seat.uid, leader.pid if leader else 0, os.getpid())


def _kill(seat: Seat, leader: Handle | None) -> None:
    if seat.group.kind is not Kind.NONE:
        seat.group.kill()
    else:
        owners.kill_proven(seat.uid, leader.pid if leader else 0, os.getpid())
