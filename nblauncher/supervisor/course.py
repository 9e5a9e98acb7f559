"""What the supervisor holds for a course: seats, front page, proxy and schedule, from its start to its end."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nblauncher.isolation.cgroups import Groups, is_held
from nblauncher.model import SHUT_DOWN, JobHandle, ServerState
from nblauncher.paths import CoursePaths
from nblauncher.supervisor import ports, registry
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.doings import SIGN_INS, SignIns
from nblauncher.supervisor.errands import Errands
from nblauncher.supervisor.front_page import FrontPage
from nblauncher.supervisor.job_ends import JobEnds
from nblauncher.supervisor.jobs import Jobs
from nblauncher.supervisor.kernel_ending import Outcome, end_kernels
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.nginx import Proxy
from nblauncher.supervisor.node_requests import NodeRequests
from nblauncher.supervisor.notices import Board
from nblauncher.supervisor.porter import Porter
from nblauncher.supervisor.registry import Registry, Remembered
from nblauncher.supervisor.relays import Relays
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.schedule import Appointments, Wanted
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.seats import Seats
from nblauncher.supervisor.spawners import (
    SLURM,
    ForkServerSpawner,
    KernelForkServer,
    ProcessSpawner,
    SlurmSpawner,
    Spawner,
)
from nblauncher.supervisor.specs import FrontPageSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Locale:
    """LANG and TZ for the servers, as the command had them that started the supervisor."""

    language: str
    time_zone: str


FORK_SERVER, KERNEL_FORK_SERVER = "fork-server", "kernel-fork-server"
"""Their control groups, and with a _ their logs."""


class Course:
    """One course's; `handlers` says how requests act on it."""

    def __init__(self, loop: Loop, paths: CoursePaths, groups: Groups, tickets: socket.socket, locale: Locale) -> None:
        self._loop, self.paths, self.groups, self._tickets, self.locale = loop, paths, groups, tickets, locale
        self.fork_server = ForkServerSpawner(
            loop,
            groups.group(FORK_SERVER),
            locale.language,
            paths.preloaded,
            partial(self._keep_output, FORK_SERVER),
        )
        self.kernels = KernelForkServer(
            loop,
            groups.group(KERNEL_FORK_SERVER),
            locale.language,
            paths.kernels_socket,
            paths.kernels_home,
            partial(self._keep_output, KERNEL_FORK_SERVER),
        )
        self._fork_server_logs: dict[str, CappedLog] = {}
        errands = Errands(loop)
        slurm = SlurmSpawner(loop, errands, paths.course)
        spawners: dict[str, Spawner] = {"process": ProcessSpawner(), "forkserver": self.fork_server, SLURM: slurm}
        self._sandboxes = Sandboxes(groups, paths.students_run)
        sign_ins = SignIns(loop, paths.state / SIGN_INS)
        self.seats = Seats(loop, spawners, self.kernels, self._sandboxes, paths.logs, sign_ins)
        self.jobs = Jobs(loop, errands, self.seats, slurm, JobEnds(errands, paths.course))
        self.relays = Relays(loop, groups, paths.logs)
        self._slurm = slurm
        self.board = Board(paths.run, lambda: {seat.username: seat.uid for seat in self.seats})
        self.node_requests = NodeRequests(loop, errands, self.seats, self.board, paths)
        self.front = FrontPage(loop, groups, paths.logs, self._state_of, self._wake, self.board, self._queue_of)
        self.proxy = Proxy(loop, groups, paths.logs)
        self.porter = Porter(loop, groups, paths.logs, paths.appearance)
        self.appointments = Appointments(loop, paths.course)
        self.registry = Registry(paths.run / registry.FILE)
        self._job_registry = Registry(paths.state / registry.JOBS, outlives_boot=True)
        self.started_at = time.time()

    def recover(self) -> None:
        """Adopt what a killed supervisor left."""
        known = registry.load(self.registry.file)
        for student in known:
            self.seats.adopting.adopt(student)
        for student in registry.load(self._job_registry.file):
            # This host was switched off meanwhile; the nodes were not.
            if student.username not in {seat.username for seat in known}:
                self.seats.adopting.adopt(student)
        for seat in self.seats:
            if seat.is_remote:
                self._slurm.know(*seat.site)
        self.board.recover()

    def settle(self) -> bool:
        """Kill what was left and not adopted (the old front page, unknown servers). Whether all of it is gone."""
        kept = {seat.group.path.name for seat in self.seats if seat.is_up} | {"supervisor"}
        names = [name for name in self.groups.names() if name not in kept and not is_held(name)]
        left = [self.groups.group(name) for name in names]
        for group in left:
            if group.is_empty():
                group.remove()
            else:
                group.kill()
        # The end of a job may take as long as the controller is down.
        stopping = [seat for seat in self.seats if seat.stopping and not seat.is_remote]
        return not stopping and all(group.is_empty() for group in left)

    def remember(self) -> None:
        """Write servers.json when something changed, and tell the porter which ports are closed."""
        self.porter.keep(self._closed())
        ports.show(self.front.sockets, is_shown=not self.front.is_closed)
        seats = list(self.seats)
        self.relays.keep(seats)
        self.jobs.look(seats)
        self.node_requests.look(seats)
        if self.seats.changed:
            self.seats.ports.show(self.seats.changed)
            if self._save(self.seats.remembered()):
                self.seats.changed.clear()

    def _save(self, changed: Mapping[str, Remembered | None]) -> bool:
        remote = {name: seat if seat and isinstance(seat.handle, JobHandle) else None for name, seat in changed.items()}
        try:
            self.registry.save(changed)
            if self._job_registry.differs(remote):
                self._job_registry.save(remote)
        except OSError as error:
            log.error("cannot write what the next supervisor needs: %s", error)
            return False
        return True

    def child_ended(self, pid: int, status: int) -> None:
        if not (
            self.seats.child_ended(pid, status)
            or self.front.child_ended(pid, status)
            or self.proxy.child_ended(pid, status)
            or self.porter.child_ended(pid, status)
            or self.relays.child_ended(pid, status)
            or self.fork_server.child_ended(pid)
            or self.kernels.child_ended(pid)
            or self.appointments.child_ended(pid, status)
        ):
            self.seats.orphan_ended(pid, status)

    def end(self, grace: float, over: Callable[[], None] = lambda: None, *, is_forced: bool = False) -> None:
        """Stop the front page and every server, then the supervisor itself. The ledger still says which servers should
        be up: after a reboot the next `launch` starts them.

        While the end of a job is not confirmed the supervisor stays, unless it is forced: the host is switched off.
        """

        def is_over() -> None:
            left = sorted(seat.username for seat in self.seats if seat.is_remote and seat.handle is not None)
            over()
            if left and not is_forced:
                log.warning("the end of these students' jobs is not confirmed: %s", ", ".join(left))
                return
            log.info("the class is over")
            self._loop.stop()

        self.appointments.close()
        # Those of UNKNOWN jobs were waited for already, and are still being cancelled.
        chosen = [seat for seat in self.seats if seat.state is not ServerState.UNKNOWN]
        stop_servers = partial(self.stop_servers, chosen, grace, is_over)
        self.porter.stop(lambda: self.proxy.stop(lambda: self.front.stop(stop_servers)))

    def close(self) -> None:
        """Close everything: the class is over."""
        if not any(isinstance(seat.handle, JobHandle) for seat in self.seats):
            self._job_registry.file.unlink(missing_ok=True)
        self.seats.close()
        self.front.close()
        self.proxy.close()
        self.porter.close()
        self.relays.close()
        self.fork_server.close()
        self.kernels.close()
        self._sandboxes.close()
        self.board.close()

    def stop_servers(
        self, chosen: Sequence[Seat], grace: float, done: Callable[[], None], *, keeps_runtime: bool = False
    ) -> None:
        """Stop them all at the same time, then call `done`."""
        left = len(chosen)
        if not left:
            done()
            return

        def stopped() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for seat in chosen:
            self.seats.stop(seat, grace, stopped, reason=SHUT_DOWN, keeps_runtime=keeps_runtime)

    def end_kernels(self, chosen: Sequence[Seat], done: Callable[[Mapping[str, Outcome]], None]) -> None:
        end_kernels(self._loop, chosen, done)

    def start_front_page(self, spec: FrontPageSpec, memory_files: Sequence[int]) -> None:
        """HostError as FrontPage.start."""
        self.front.start(spec, self._tickets, memory_files)
        self.porter.employ(spec, memory_files)

    def appoint(self, wanted: Wanted) -> None:
        """Keep this schedule, and let the front page show its deadlines."""
        self.appointments.keep(wanted)
        self.front.tell_deadlines(wanted.deadlines, wanted.own_of)
        with self._kept_going("deadlines"):
            self.board.keep_deadlines(wanted.deadlines, wanted.own_of)

    def students_changed(self) -> None:
        """Seats were made or removed: newcomers see what the class was told."""
        with self._kept_going("messages"):
            self.board.refresh()

    def front_report(self) -> dict[str, Any]:
        """Of the page and of the proxy, if there is one: students need both."""
        page, proxy = self.front.report(), self.proxy.report()
        about = {"proxy_config": proxy["config"], "proxy_is_starting": proxy["is_starting"]}
        about["proxy_ports"] = proxy["ports"]
        if self.proxy.state is ServerState.FAILED and self.front.state is ServerState.READY:
            about |= {"state": proxy["state"], "reason": f"nginx: {proxy['reason']}"}
        return {**page, **about, "last_lines": proxy["last_lines"] or page["last_lines"]}

    def _closed(self) -> dict[int, Sequence[socket.socket]]:
        """Public ports on which no process accepts connections. Behind a proxy there are none: it answers by itself."""
        found: dict[int, Sequence[socket.socket]] = {}
        if self.front.is_closed:
            found[self.front.port] = self.front.sockets
        found |= {seat.port: seat.sockets for seat in self.seats if seat.is_closed}
        return {
            port: sockets
            for port, sockets in found.items()
            if sockets and all(held.family != socket.AF_UNIX for held in sockets)
        }

    @contextlib.contextmanager
    def _kept_going(self, what: str) -> Iterator[None]:
        """A runtime folder that is full costs the students' notices, and nothing else."""
        try:
            yield
        except OSError as error:
            log.error("students are not told about %s: %s", what, error)

    def _wake(self, username: str) -> None:
        seat = self.seats.get(username)
        if seat is not None:
            self.seats.waking.wake(seat)

    def _state_of(self, username: str) -> tuple[ServerState, str]:
        seat = self.seats.get(username)
        if seat is None:
            return ServerState.STOPPED, ""
        about = seat.stopping
        return (seat.shown_state, seat.reason) if about is None else (about.final_state, about.reason)

    def _queue_of(self, username: str) -> dict[str, Any] | None:
        seat = self.seats.get(username)
        if seat is None or seat.state is not ServerState.QUEUED:
            return None
        return {"place": seat.cluster.place, "kind": seat.cluster.kind, "starts_at": seat.cluster.starts_at}

    def _keep_output(self, name: str, output: int) -> None:
        if name in self._fork_server_logs:
            self._fork_server_logs[name].close()
        self._fork_server_logs[name] = CappedLog(self._loop, output, self.paths.logs / f"_{name}.log")
