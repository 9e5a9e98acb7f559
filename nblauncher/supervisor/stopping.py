"""The end of a server: everything that came from it is killed, before what held it is removed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from nblauncher.isolation import limits, owners
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.model import OUT_OF_MEMORY, Handle, ServerHandle
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.spawners import KernelForkServer
from nblauncher.system import memory, processes

SWEEP_DEADLINE = 10.0
"""Seconds that killed processes may take to be gone."""

JOB_DEADLINE = 35.0
"""Seconds in which the cluster should confirm that a cancelled job has ended. Slurm kills it after 30 (KillWait)."""

SILENT_DEADLINE = 10.0
"""The same while the controller does not answer: nothing would be confirmed before it does."""

_SWEEP_PAUSE = 0.05
_JOB_PAUSE = 0.25
_QUIET_ROUNDS = 6
"""Without groups, one look at /proc can miss a process that forks and exits all the time; so many looks do not."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a server ended."""

    words: str
    is_clean: bool = False
    """By itself, with exit status 0."""
    stays_down: bool = False
    """A new one would end the same way, or somebody wanted it to end."""
    is_lost: bool = False
    """Its host failed: it is started again, also if it had not answered yet."""


class Ending:
    """`cleared` is called once the server's last process is gone, with the pids of those that cannot be killed;
    `unconfirmed` when the cluster does not say in time that a job has ended. It is still waited for then.
    """

    def __init__(
        self,
        loop: Loop,
        kernels: KernelForkServer,
        cleared: Callable[[Seat, tuple[int, ...]], None],
        unconfirmed: Callable[[Seat], None],
    ) -> None:
        self._loop, self._kernels, self._cleared, self._unconfirmed = loop, kernels, cleared, unconfirmed

    def sweep(self, seat: Seat, leader: ServerHandle | None = None) -> None:
        """Kill everything that came from the server, until nothing is left or the deadline is over."""
        stopping = seat.stopping
        if stopping is None:
            return
        if stopping.deadline is not None:
            stopping.deadline.cancel()
        if seat.is_remote:
            self._await_job(seat)
            return
        leader = leader or seat.handle
        if stopping.sweeping_since == 0.0:
            stopping.sweeping_since = time.monotonic()
            self._kernels.forget(seat.uid)
        # Before the look at the group: once the fork server has forgotten the student, it forks nothing into it.
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
        self._cleared(seat, left)

    def _await_job(self, seat: Seat) -> None:
        """Nothing of the server runs on this host. Only the cluster can end it, and only the cluster can say so."""
        stopping = seat.stopping
        if stopping is None:
            return
        if seat.handle is None and not seat.is_submitting:
            self._cleared(seat, ())
            return
        if stopping.sweeping_since == 0.0:
            stopping.sweeping_since = time.monotonic()
        patience = SILENT_DEADLINE if seat.cluster.silent_since else JOB_DEADLINE
        if stopping.done and time.monotonic() - stopping.sweeping_since > patience:
            self._unconfirmed(seat)
        stopping.deadline = self._loop.later(_JOB_PAUSE, lambda: self.sweep(seat))


class ExitWords:
    """How servers ended. The kernel does not report what sent SIGKILL, only that the OOM killer ran meanwhile: in the
    server's own group, or, where groups do not count that, somewhere on the host.
    """

    def __init__(self) -> None:
        self._kills_on_host = memory.kills()
        """When a server ended last."""

    def of(self, group: Group, status: int | None) -> Exit:
        """`status` is None for a server that was not our child."""
        return Exit(self._words(group, status), is_clean=status == 0)

    def _words(self, group: Group, status: int | None) -> str:
        before, self._kills_on_host = self._kills_on_host, memory.kills()
        if status is None:
            return "it ended; how is not known, because it was adopted"
        if limits.counts_memory_kills(group):
            has_run_out = limits.pressure(group).memory_kills > 0
        else:
            has_run_out = self._kills_on_host > before
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        words = processes.exit_words(status)
        return f"{words}, {OUT_OF_MEMORY}" if is_killed and has_run_out else words


def _left(seat: Seat, leader: ServerHandle | None) -> tuple[int, ...]:
    if seat.group.kind is not Kind.NONE:
        return seat.group.pids()
    return owners.provable(seat.uid, _pid(leader), os.getpid())


def _kill(seat: Seat, leader: ServerHandle | None) -> None:
    if seat.group.kind is not Kind.NONE:
        seat.group.kill()
    else:
        owners.kill_proven(seat.uid, _pid(leader), os.getpid())


def _pid(leader: ServerHandle | None) -> int:
    return leader.pid if isinstance(leader, Handle) else 0
