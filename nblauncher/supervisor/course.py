"""What the supervisor does for a course: the requests, and the end."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nblauncher import __version__, reasons
from nblauncher.cgroups import Groups, is_held
from nblauncher.course import CoursePaths
from nblauncher.descriptors import is_sealed
from nblauncher.errors import HostError
from nblauncher.model import Limits, ServerState
from nblauncher.sandbox import Sandbox
from nblauncher.spawners import (
    ForkServerSpawner,
    KernelForkServer,
    Order,
    ProcessSpawner,
    Spawner,
    server_environment,
)
from nblauncher.supervisor import ports, registry
from nblauncher.supervisor.appointments import Appointments, Wanted
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.front import FrontPage
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.porter import Porter
from nblauncher.supervisor.proxy import Proxy, ProxySpec, ProxyWanted
from nblauncher.supervisor.registry import Registry
from nblauncher.supervisor.requests import Answer, Handler
from nblauncher.supervisor.sandboxes import Sandboxes
from nblauncher.supervisor.seat import Behind, Seat
from nblauncher.supervisor.seats import Seats
from nblauncher.supervisor.specs import (
    FrontPageSpec,
    ServerSpec,
    SpecError,
    checked_grace,
    checked_number,
    checked_port,
    checked_preload,
    checked_spawner,
    checked_username,
)

log = logging.getLogger(__name__)

Asked = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Locale:
    """LANG and TZ for the servers, from whoever started the supervisor."""

    language: str
    time_zone: str


FORK_SERVER, KERNEL_FORK_SERVER = "fork-server", "kernel-fork-server"
"""Their control groups, and with a _ their logs."""


class Course:
    """One course's seats and front page, and how requests act on them."""

    def __init__(self, loop: Loop, paths: CoursePaths, groups: Groups, tickets: socket.socket, locale: Locale) -> None:
        self._loop, self._paths, self._groups, self._tickets, self._locale = loop, paths, groups, tickets, locale
        self._fork_server = ForkServerSpawner(
            loop,
            groups.group(FORK_SERVER),
            locale.language,
            paths.preloaded,
            partial(self._keep_output, FORK_SERVER),
        )
        self._kernels = KernelForkServer(
            loop,
            groups.group(KERNEL_FORK_SERVER),
            locale.language,
            paths.kernels_socket,
            paths.kernels_home,
            partial(self._keep_output, KERNEL_FORK_SERVER),
        )
        self._fork_server_logs: dict[str, CappedLog] = {}
        spawners: dict[str, Spawner] = {"process": ProcessSpawner(), "forkserver": self._fork_server}
        self._sandboxes = Sandboxes(groups, paths.students_run)
        self.seats = Seats(loop, spawners, self._kernels, self._sandboxes, paths.logs)
        self.front = FrontPage(loop, groups, paths.logs, self._state_of, self._wake)
        self.proxy = Proxy(loop, groups, paths.logs)
        self.porter = Porter(loop, groups, paths.logs)
        self.appointments = Appointments(loop, paths.course)
        self.registry = Registry(paths.run / registry.FILE)
        self._started_at = time.time()

    def recover(self) -> None:
        """Adopt what a killed supervisor left."""
        for one in registry.load(self.registry.file):
            self.seats.adopt(one)

    def settle(self) -> bool:
        """End what was left and not adopted (the old front page, unknown servers); whether all of it is gone."""
        kept = {seat.group.path.name for seat in self.seats if seat.is_up} | {"supervisor"}
        names = [name for name in self._groups.names() if name not in kept and not is_held(name)]
        left = [self._groups.group(name) for name in names]
        for group in left:
            if group.is_empty():
                group.remove()
            else:
                group.kill()
        return not any(seat.stopping for seat in self.seats) and all(group.is_empty() for group in left)

    def remember(self) -> None:
        """Write servers.json when something changed, and tell the porter which ports are closed."""
        self.porter.keep(self._closed())
        ports.show(self.front.sockets, is_shown=not self.front.is_closed)
        if self.seats.changed:
            self.seats.show()
            try:
                self.registry.save(self.seats.remembered())
            except OSError as error:
                log.error("cannot write %s: %s", self.registry.file, error)
                return
            self.seats.changed.clear()

    def child_ended(self, pid: int, status: int) -> None:
        if not (
            self.seats.child_ended(pid, status)
            or self.front.child_ended(pid, status)
            or self.proxy.child_ended(pid, status)
            or self.porter.child_ended(pid, status)
            or self._fork_server.child_ended(pid)
            or self._kernels.child_ended(pid)
            or self.appointments.child_ended(pid, status)
        ):
            self.seats.orphan_ended(pid, status)

    def end(self, grace: float, over: Callable[[], None] = lambda: None) -> None:
        """Stop the front page and every server, then the supervisor itself. What each student's server should be, the
        ledger still says: after a reboot the next `launch` knows.
        """

        def is_over() -> None:
            over()
            log.info("the class is over")
            self._loop.stop()

        self.appointments.close()
        stop_servers = partial(self._stop_all, list(self.seats), grace, is_over)
        self.porter.stop(lambda: self.proxy.stop(lambda: self.front.stop(stop_servers)))

    def close(self) -> None:
        """Let go of everything; the class is over."""
        self.seats.close()
        self.front.close()
        self.proxy.close()
        self.porter.close()
        self._fork_server.close()
        self._kernels.close()
        self._sandboxes.close()

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "hello": self._hello,
            "bind": self._bind,
            "drop": self._drop,
            "servers": self._servers,
            "prepare": self._prepare,
            "start_server": self._start_server,
            "mark_ready": self._mark_ready,
            "fail_server": self._fail_server,
            "stop_servers": self._stop_servers,
            "start_front_page": self._start_front_page,
            "stop_front_page": self._stop_front_page,
            "front_page": self._front_page,
            "start_proxy": self._start_proxy,
            "appoint": self._appoint,
            "end": self._end,
        }

    def _hello(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        kind = self._groups.kind.value
        about = {"version": __version__, "pid": os.getpid(), "started_at": self._started_at, "groups": kind}
        answer({**about, "kernels": self._kernels.state.to_json()})

    def _bind(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """Every port that can be held is; the others are told by name."""
        addresses = _words(asked.get("addresses", []))
        errors: dict[str, list[str]] = {}
        notes: list[str] = []
        behind = None
        if asked.get("proxy") is None and self.proxy.is_there:
            raise HostError("the class still runs behind nginx", "Run `nblauncher shutdown` first.")
        if asked.get("proxy") is not None:
            wanted = ProxyWanted.from_json(asked["proxy"])
            behind = Behind(self._paths.http, wanted.gid)
            failed, notes = self.proxy.bind(wanted.ports, addresses)
            errors = {name: [error.problem, error.hint] for name, error in failed.items()}
        for one in _list(asked.get("ports")):
            username, port = one.get("username"), checked_port(one.get("port"))
            try:
                if username is None:
                    notes += self.front.bind(port, addresses, behind)
                else:
                    uid = checked_number(one.get("uid"), 1, 2**32 - 2)
                    notes += self.seats.bind(checked_username(username), uid, port, addresses, behind)
            except HostError as error:
                errors[username or ""] = [error.problem, error.hint]
        answer({"errors": errors, "notes": list(dict.fromkeys(notes))})

    def _drop(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        for username in _words(asked.get("usernames")):
            self.seats.drop(username)
        answer({})

    def _servers(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        chosen = self._chosen(asked)
        answer({"servers": [self.seats.report(seat).to_json() for seat in chosen], "front": self._front_report()})

    def _prepare(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """A class is about to be started with this spawner, now or when the first student comes."""
        at_first_use = asked.get("at_first_use") is True
        preload = checked_preload(asked.get("kernels"))
        if checked_spawner(asked.get("spawner")) == "forkserver":
            self._fork_server.prepare(at_first_use=at_first_use)
        self._kernels.prepare(preload, at_first_use=at_first_use)
        answer({})

    def _keep_output(self, name: str, output: int) -> None:
        if name in self._fork_server_logs:
            self._fork_server_logs[name].close()
        self._fork_server_logs[name] = CappedLog(self._loop, output, self._paths.logs / f"_{name}.log")

    def _start_server(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        spec = ServerSpec.from_json(asked.get("server"))
        seat = self._seat(spec.username)
        if (seat.uid, seat.port) != (spec.uid, spec.port) or not seat.sockets:
            raise HostError(f"port {spec.port} is not held for {spec.username}")

        def done() -> None:
            answer({"server": self.seats.report(seat).to_json()})

        _check_memory_files(descriptors)
        order = self._order(spec, seat, descriptors)
        if seat.is_up:
            self.seats.keep(seat, order, spec.spawner)
            done()
        elif asked.get("on_demand") is True:
            self.seats.keep(seat, order, spec.spawner)
            self.seats.lay_down(seat)
            done()
        else:
            self.seats.start(seat, order, spec.spawner, done)

    def _order(self, spec: ServerSpec, seat: Seat, descriptors: Sequence[int]) -> Order:
        run = self._paths.run
        jupyter = {
            "JUPYTER_CONFIG_PATH": run / "etc/jupyter",
            "JUPYTER_PATH": run / "share/jupyter",
            "JUPYTER_RUNTIME_DIR": self._paths.students_run / str(spec.uid),
        }
        environment = server_environment(
            spec.account,
            language=self._locale.language,
            time_zone=self._locale.time_zone,
            jupyter=jupyter,
            wanted={**_threads(spec.limits), **spec.environment},
        )
        has_tls = len(descriptors) == 3
        return Order(
            account=spec.account,
            listening=tuple(one.fileno() for one in seat.sockets),
            config=descriptors[0],
            certificate=descriptors[1] if has_tls else None,
            key=descriptors[2] if has_tls else None,
            environment=environment,
            sandbox=Sandbox(seat.group, spec.limits),
            is_isolated=spec.is_isolated,
            news=-1,
        )

    def _mark_ready(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        seat = self._seat(asked.get("username"))
        if seat.handle is not None and seat.handle.pid == asked.get("pid"):
            self.seats.mark_ready(seat)
        answer({"server": self.seats.report(seat).to_json()})

    def _fail_server(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """A server that does not answer in time is ended, and its state says why."""
        seat = self._seat(asked.get("username"))
        grace, reason = checked_grace(asked.get("grace")), str(asked.get("reason", ""))

        def done() -> None:
            answer({"server": self.seats.report(seat).to_json()})

        if seat.handle is None or seat.handle.pid != asked.get("pid"):
            done()
            return
        self.seats.stop(seat, grace, done, final_state=ServerState.FAILED, reason=reason)

    def _stop_servers(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """Answers when the last of them is gone."""
        grace, chosen = checked_grace(asked.get("grace")), self._chosen(asked)

        def done() -> None:
            answer({"servers": [self.seats.report(seat).to_json() for seat in chosen]})

        self._stop_all(chosen, grace, done)

    def _stop_all(self, chosen: Sequence[Seat], grace: float, done: Callable[[], None]) -> None:
        waiting = len(chosen)
        if not waiting:
            done()
            return

        def one_done() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()

        for seat in chosen:
            self.seats.stop(seat, grace, one_done, reason=reasons.SHUT_DOWN)

    def _start_front_page(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        spec = FrontPageSpec.from_json(asked.get("front"))
        _check_memory_files(descriptors)
        self.front.start(spec, self._tickets, descriptors)
        self.porter.employ(spec, descriptors)
        answer({"front": self._front_report()})

    def _stop_front_page(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        self.front.stop(lambda: answer({"front": self._front_report()}))

    def _front_page(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        answer({"front": self._front_report()})

    def _start_proxy(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        self.proxy.start(ProxySpec.from_json(asked.get("proxy")))
        answer({"front": self._front_report()})

    def _appoint(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """Keep these appointments, or say which are kept."""
        if asked.get("appointments") is not None:
            self.appointments.keep(Wanted.from_json(asked["appointments"]))
            wanted = self.appointments.wanted
            self.front.tell_deadlines(wanted.deadlines, wanted.own_of)
        answer({"appointments": self.appointments.wanted.to_json()})

    def _end(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        everybody = list(self.seats)

        def over() -> None:
            answer({"servers": [self.seats.report(seat).to_json() for seat in everybody]})

        self.end(checked_grace(asked.get("grace")), over)

    def _closed(self) -> dict[int, Sequence[socket.socket]]:
        """Public ports on which nobody accepts connections. A proxy answers by itself, so there are none behind one."""
        found: dict[int, Sequence[socket.socket]] = {}
        if self.front.is_closed:
            found[self.front.port] = self.front.sockets
        found |= {seat.port: seat.sockets for seat in self.seats if seat.is_closed}
        return {
            port: sockets
            for port, sockets in found.items()
            if sockets and all(one.family != socket.AF_UNIX for one in sockets)
        }

    def _front_report(self) -> dict[str, Any]:
        """Students arrive where both are: the page, and the proxy if there is one."""
        page, proxy = self.front.report(), self.proxy.report()
        about = {"proxy_config": proxy["config"], "proxy_is_starting": proxy["is_starting"]}
        about["proxy_ports"] = proxy["ports"]
        if self.proxy.state is ServerState.FAILED and self.front.state is ServerState.READY:
            about |= {"state": proxy["state"], "reason": f"nginx: {proxy['reason']}"}
        return {**page, **about, "last_lines": proxy["last_lines"] or page["last_lines"]}

    def _chosen(self, asked: Asked) -> list[Seat]:
        """Those who are named, or everybody where nobody is. Who has no seat is left out."""
        names = asked.get("usernames")
        if names is None:
            return list(self.seats)
        return [seat for name in dict.fromkeys(_words(names)) if (seat := self.seats.get(name)) is not None]

    def _seat(self, username: object) -> Seat:
        seat = self.seats.get(checked_username(username))
        if seat is None:
            raise HostError(f"the supervisor holds no port for {username}")
        return seat

    def _wake(self, username: str) -> None:
        seat = self.seats.get(username)
        if seat is not None:
            self.seats.waking.call(seat)

    def _state_of(self, username: str) -> tuple[ServerState, str]:
        seat = self.seats.get(username)
        if seat is None:
            return ServerState.STOPPED, ""
        about = seat.stopping
        return (seat.state, seat.reason) if about is None else (about.final_state, about.reason)


def _threads(limits: Limits) -> dict[str, str]:
    """numpy's libraries start a thread for each processor of the host, which all count as processes."""
    if limits.cpus is None or limits.cpus >= (os.cpu_count() or 1):
        return {}
    return {"OMP_NUM_THREADS": str(math.ceil(limits.cpus))}


def _check_memory_files(descriptors: Sequence[int]) -> None:
    if len(descriptors) not in (1, 3) or not all(map(is_sealed, descriptors)):
        raise SpecError("a config, and with TLS a certificate and a key, are needed as sealed memory files")


def _words(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise SpecError("not a list of words")
    return given


def _list(given: object) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise SpecError("not a list of objects")
    return given
