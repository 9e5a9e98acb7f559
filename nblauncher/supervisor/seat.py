"""One student as the supervisor keeps them: a port that is held, and perhaps a server on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nblauncher.cgroups import Group
from nblauncher.descriptors import Listener, describe
from nblauncher.model import Handle, ServerState
from nblauncher.spawners import Order
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import Timer
from nblauncher.supervisor.restarts import Restarts
from nblauncher.wire import close_all

_DOWN = (ServerState.STOPPED, ServerState.FAILED)
_UP = (ServerState.STARTING, ServerState.READY)


@dataclass
class Stopping:
    """A stop under way: what follows it, and until when politeness or patience lasts."""

    final_state: ServerState
    reason: str
    is_asked: bool = False
    """Somebody wants it; else the server ended by itself."""
    deadline: Timer | None = None
    sweeping_since: float = 0.0
    quiet_rounds: int = 0
    done: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Waker:
    """How a seat's server came to be awake, and what came of it. Times are those of time.monotonic."""

    why: str = ""
    """waking.CALL or CONNECTION; empty: nobody came, `launch` started it."""
    is_proven: bool = False
    """Somebody who is signed in asked for something since it woke."""
    misses: int = 0
    """How often a connection woke it and nobody signed in, one after the other."""
    not_before: float = 0.0
    """Mere connections wake it again from here on."""
    proof: Timer | None = None
    """When it is looked whether somebody signed in."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The proxy that a server is behind: where its socket is, and the group of who connects."""

    folder: Path
    gid: int


@dataclass
class Seat:
    """`watch` is a pidfd for a server that is not our child (it was adopted), else -1."""

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
    """What it is started with, again and again; its memory files are the seat's own. None right after an adoption."""
    news: int = -1
    """Where its server tells what happens (server_activity)."""
    is_idle: bool = False
    """It said that it ends because nobody needs it."""
    restarts: Restarts = field(default_factory=Restarts)
    waker: Waker = field(default_factory=Waker)
    timer: Timer | None = None
    """A start that is to come, or the end of the patience with one."""
    is_pausing: bool = False
    """It died and will be started again after a pause."""
    attempt: int = 0
    """Which start the server comes from: an answer to an earlier one comes too late."""

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(map(describe, self.sockets))

    @property
    def is_up(self) -> bool:
        return self.state in _UP

    @property
    def is_closed(self) -> bool:
        """Whether nobody accepts connections here, and a connection would not wake the server either."""
        return (self.state in _DOWN or self.is_pausing) and self.stopping is None

    def is_at(self, behind: Behind | None) -> bool:
        """Whether the sockets that are held are of this kind."""
        kind = socket.AF_INET if behind is None else socket.AF_UNIX
        return any(one.family == kind or (behind is None and one.family == socket.AF_INET6) for one in self.sockets)

    def keep_order(self, order: Order, spawner: str) -> None:
        """Duplicates of its memory files, so that a server can be started again; those of the last order are closed."""
        kept = replace(
            order,
            config=os.dup(order.config),
            certificate=None if order.certificate is None else os.dup(order.certificate),
            key=None if order.key is None else os.dup(order.key),
        )
        self.forget_order()
        self.order, self.spawner = kept, spawner

    def forget_order(self) -> None:
        if self.order is not None:
            close_all([one for one in (self.order.config, self.order.certificate, self.order.key) if one is not None])
            self.order = None

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.is_pausing = False

    def end_output(self) -> None:
        """The log is closed, and its last lines are kept."""
        if self.output is not None:
            self.output.close()
            self.last_lines = self.output.last_lines()
            self.output = None

    def close(self) -> None:
        """Let go of the port and of what a server is started with."""
        self.cancel_timer()
        for one in self.sockets:
            one.close()
        self.sockets = []
        self.forget_order()
