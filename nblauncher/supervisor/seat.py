"""A student's seat in the supervisor: the port that is held for the student, and perhaps a server on it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nblauncher.isolation.cgroups import Group
from nblauncher.model import STAYS_DOWN, Handle, ServerHandle, ServerState
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.doings import Doings
from nblauncher.supervisor.loop import Timer
from nblauncher.supervisor.restarts import PAUSES, Restarts
from nblauncher.supervisor.spawners import Order
from nblauncher.supervisor.states import Phase
from nblauncher.system.descriptors import Listener, describe
from nblauncher.system.wire import close_all

log = logging.getLogger(__name__)

_PHASES = {
    ServerState.STOPPED: Phase.DOWN,
    ServerState.FAILED: Phase.DOWN,
    ServerState.ASLEEP: Phase.ASLEEP,
    ServerState.STARTING: Phase.STARTING,
    ServerState.QUEUED: Phase.QUEUED,
    ServerState.READY: Phase.READY,
}
_UP = (ServerState.STARTING, ServerState.QUEUED, ServerState.READY)


@dataclass
class Stopping:
    """A stop under way, and what follows it."""

    final_state: ServerState
    reason: str
    is_requested: bool = False
    """A command or the supervisor wants it; otherwise the server ended by itself."""
    keeps_runtime: bool = False
    """A new server follows: the runtime folder stays, and with it the student's sessions."""
    restart: Restart | None = None
    """With the final state STARTING: how a new server is started."""
    deadline: Timer | None = None
    """The end of the grace period; then the next look at what is left."""
    sweeping_since: float = 0.0
    quiet_rounds: int = 0
    done: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restart:
    """Why a new server is started in place of one that died, and after how many seconds."""

    reason: str
    pause: float


@dataclass
class Waker:
    """What woke a seat's server, and whether the student then signed in. Times are those of time.monotonic."""

    cause: str = ""
    """on_demand.SIGN_IN or CONNECTION; empty: `launch` started it."""
    is_signed_in: bool = False
    """A signed-in client has sent a request since it woke."""
    misses: int = 0
    """How many times in a row a connection woke it and no sign-in followed."""
    not_before: float = 0.0
    """From then on a connection alone wakes it again."""
    deadline: Timer | None = None
    """When a sign-in must have followed."""


@dataclass(slots=True)
class InCluster:
    """What the cluster said last about a seat's job. `starts_at`: its estimate, Unix seconds; 0: none."""

    node: str = ""
    place: int = 0
    """In the queue; 0: not in it, or not known."""
    why: str = ""
    """Why it waits, in plain words."""
    kind: str = ""
    """The same for students: one of `kind_of` (nblauncher.supervisor.jobs)."""
    starts_at: float = 0.0
    address: str = ""
    port: int = 0
    """Where the server listens, once it does."""
    said: tuple[str, ...] = ()
    """What the server has reported (nblauncher.server.activity)."""
    left: int | None = None
    """Seconds until the job's time limit, if it has one."""
    ends_at: int = 0
    """The same as a time, Unix seconds, which stays as it is between two looks; 0: there is none."""
    kernels_to_end: str = ""
    """Names the teacher's wish to end the server's kernels; empty: there is none."""
    silent_since: float = 0.0
    """The controller has not answered since then, Unix seconds; 0: it answers."""
    is_cut_off: bool = False
    """The cluster does not reach its node."""
    trouble: str = ""
    """What happened to its relay."""
    is_suspended: bool = False
    """All of the job's processes are stopped, until it is resumed."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The proxy that a server is behind: the folder of the server's socket, and the group that may connect."""

    folder: Path
    gid: int


@dataclass
class Seat:
    """One student's. `pidfd` is -1 unless the server was adopted and therefore is not our child."""

    username: str
    uid: int
    port: int
    group: Group
    sockets: list[socket.socket] = field(default_factory=list)
    state: ServerState = ServerState.STOPPED
    reason: str = ""
    handle: ServerHandle | None = None
    output: CappedLog | None = None
    started_at: float = 0.0
    pidfd: int = -1
    stopping: Stopping | None = None
    last_lines: tuple[str, ...] = ()
    unproven: tuple[int, ...] = ()
    spawner: str = "process"
    """What the next server is started by."""
    started_by: str = "process"
    """What the present server was started by."""
    is_remote: bool = False
    """The present server runs on another host, as a job."""
    is_submitting: bool = False
    """The cluster has been asked for a job and has not answered yet."""
    site: tuple[str, str] = ("", "")
    """Of an adopted job, whose order is not known: as Remembered.site."""
    cluster: InCluster = field(default_factory=InCluster)
    sign_ins: str = ""
    """As Order.sign_ins; empty: the next job begins new ones."""
    lost_node: str = ""
    """Where the last job ran, if its node failed: its server may go on there."""
    relay: Handle | None = None
    """The process that passes on what comes to the port, to a server on another host."""
    order: Order | None = None
    """What every start uses; the seat has duplicates of the memory files. None right after an adoption."""
    news_pipe: int = -1
    """Through which the server reports what happens (nblauncher.server.activity)."""
    doings: Doings = field(default_factory=Doings)
    is_idle: bool = False
    """The server reported that it ends because it is not in use."""
    restarts: Restarts = field(default_factory=Restarts)
    waker: Waker = field(default_factory=Waker)
    timer: Timer | None = None
    """The next start, or the deadline of the present one."""
    is_pausing: bool = False
    """The server died and is started again after a pause."""
    attempt: int = 0
    """Counts starts and stops: the spawner's answer to an earlier start comes too late."""

    @property
    def phase(self) -> Phase:
        if self.stopping is not None:
            if self.stopping.is_requested:
                return Phase.STOPPING
            return Phase.CLEARING if self.stopping.restart is None else Phase.RESTARTING
        if self.is_pausing:
            return Phase.PAUSING
        return _PHASES[self.state]

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(map(describe, self.sockets))

    @property
    def is_up(self) -> bool:
        return self.state in _UP

    @property
    def shown_state(self) -> ServerState:
        """A job that was adopted without its port cannot be reached before `launch` opens it."""
        return ServerState.STARTING if self.is_up and self.is_remote and not self.sockets else self.state

    @property
    def is_closed(self) -> bool:
        """Whether no process accepts connections here, and a connection would not wake the server either."""
        return self.phase in (Phase.DOWN, Phase.PAUSING, Phase.QUEUED)

    def is_at(self, behind: Behind | None) -> bool:
        """Whether the sockets that are held are of this kind."""
        families = (socket.AF_INET, socket.AF_INET6) if behind is None else (socket.AF_UNIX,)
        return any(held.family in families for held in self.sockets)

    def close_sockets(self) -> None:
        for held in self.sockets:
            held.close()
        self.sockets = []

    def named_sign_ins(self) -> str:
        """The name of the sign-ins that go on with the next server, or begin with it."""
        self.sign_ins = self.sign_ins or secrets.token_hex(8)
        return self.sign_ins

    def keep_order(self, order: Order, spawner: str) -> None:
        """Duplicate its memory files, so that a server can be started again, and close those of the last order."""
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
            files = (self.order.config, self.order.certificate, self.order.key)
            close_all([file for file in files if file is not None])
            self.order = None

    def plan_restart(self, now: float) -> Restart | None:
        """What follows a server's death, which the seat's state says at once; None when it stays down."""
        reason, pause = self.reason, self.restarts.pause(now)
        if pause is None:
            self.state = ServerState.FAILED
            self.reason = f"{reason}; it was started again {len(PAUSES)} times within a minute {STAYS_DOWN}"
            log.error("%s's server: %s", self.username, self.reason)
            return None
        self.state, self.reason = ServerState.STARTING, f"{reason}; it is started again"
        log.info("%s's server is started again in %.0f s", self.username, pause)
        return Restart(f"{reason}; it was started again", pause)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.is_pausing = False

    def end_output(self) -> None:
        """Close the log and keep its last lines."""
        if self.output is not None:
            self.output.close()
            self.last_lines = self.output.last_lines()
            self.output = None

    def close(self) -> None:
        """Close the port and what a server is started with."""
        self.cancel_timer()
        self.close_sockets()
        self.forget_order()
