"""What the supervisor does for each request of a command."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from nblauncher import __version__
from nblauncher.errors import HostError
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import JobHandle, Limits, ServerState
from nblauncher.supervisor import requests
from nblauncher.supervisor.control_socket import Handler, Request
from nblauncher.supervisor.course import Course
from nblauncher.supervisor.notice_requests import EndVisits, Invite, Say, Tell
from nblauncher.supervisor.reports import server_report
from nblauncher.supervisor.requests import (
    Appoint,
    Bind,
    Drop,
    End,
    EndKernels,
    FailServer,
    KeepOrder,
    MarkReady,
    Prepare,
    RenewFrontPage,
    RenewJobs,
    Servers,
    StartFrontPage,
    StartProxy,
    StartServer,
    StopServers,
)
from nblauncher.supervisor.seat import Behind, Seat
from nblauncher.supervisor.spawners import SLURM, Order, server_environment
from nblauncher.supervisor.specs import ServerSpec, SpecError
from nblauncher.system.descriptors import is_sealed


class Handlers:
    """How requests act on a course."""

    def __init__(self, course: Course) -> None:
        self._course, self._seats = course, course.seats

    @property
    def by_name(self) -> Mapping[str, Handler]:
        return {
            requests.HELLO.name: self._hello,
            Bind.name: self._bind,
            Drop.name: self._drop,
            Servers.name: self._servers,
            Prepare.name: self._prepare,
            StartServer.name: self._start_server,
            KeepOrder.name: self._keep_order,
            MarkReady.name: self._mark_ready,
            FailServer.name: self._fail_server,
            StopServers.name: self._stop_servers,
            EndKernels.name: self._end_kernels,
            StartFrontPage.name: self._start_front_page,
            requests.STOP_FRONT_PAGE.name: self._stop_front_page,
            requests.FRONT_PAGE.name: self._front_page,
            RenewFrontPage.name: self._renew_front_page,
            RenewJobs.name: self._renew_jobs,
            StartProxy.name: self._start_proxy,
            Appoint.name: self._appoint,
            Say.name: self._say,
            Tell.name: self._tell,
            Invite.name: self._invite,
            EndVisits.name: self._end_visits,
            End.name: self._end,
        }

    def _hello(self, request: Request) -> None:
        course = self._course
        request.answer(
            {
                "version": __version__,
                "pid": os.getpid(),
                "started_at": course.started_at,
                "groups": course.groups.kind.value,
                "kernels": course.kernels.state.to_json(),
            }
        )

    def _bind(self, request: Request) -> None:
        """Hold every port that can be held, and name the others."""
        wanted, course = Bind.from_json(request.fields), self._course
        errors: dict[str, list[str]] = {}
        notes: list[str] = []
        behind = None
        if wanted.proxy is None and course.proxy.is_there:
            raise HostError("the class still runs behind nginx", "Run `nblauncher shutdown` first.")
        if wanted.proxy is not None:
            behind = Behind(course.paths.http, wanted.proxy.gid)
            failed, notes = course.proxy.bind(wanted.proxy.ports, wanted.addresses)
            errors = {name: [error.problem, error.hint] for name, error in failed.items()}
        for port in wanted.ports:
            try:
                if port.username is None:
                    notes += course.front.bind(port.port, wanted.addresses, behind)
                else:
                    notes += self._seats.ports.bind(port.username, port.uid, port.port, wanted.addresses, behind)
            except HostError as error:
                errors[port.username or ""] = [error.problem, error.hint]
        course.students_changed()
        request.answer({"errors": errors, "notes": list(dict.fromkeys(notes))})

    def _drop(self, request: Request) -> None:
        for username in Drop.from_json(request.fields).usernames:
            self._seats.ports.drop(username)
            self._seats.sign_ins.forget(username)
        self._course.students_changed()
        request.answer({})

    def _servers(self, request: Request) -> None:
        """Everything that `status` shows, in one answer."""
        chosen, course = self._chosen(Servers.from_json(request.fields).usernames), self._course
        about = {"front": course.front_report(), "kernels": course.kernels.state.to_json()}
        request.answer({**self._reports(chosen), **about})

    def _prepare(self, request: Request) -> None:
        wanted = Prepare.from_json(request.fields)
        if wanted.spawner == "forkserver":
            self._course.fork_server.prepare(at_first_use=wanted.at_first_use)
        self._course.kernels.prepare(wanted.kernels, at_first_use=wanted.at_first_use)
        request.answer({})

    def _start_server(self, request: Request) -> None:
        wanted = StartServer.from_json(request.fields)
        spec = wanted.server
        seat, order = self._ordered(spec, request)
        if wanted.on_demand:
            self._seats.start_on_demand(seat, order, spec.spawner)
            self._answer_with(request, seat)
        elif spec.spawner == SLURM:
            # The cluster takes its time: the command looks at the seat, and asks for the next server meanwhile.
            self._seats.start(seat, order, spec.spawner, lambda: None)
            self._answer_with(request, seat)
        else:
            self._seats.start(seat, order, spec.spawner, lambda: self._answer_with(request, seat))

    def _keep_order(self, request: Request) -> None:
        spec = KeepOrder.from_json(request.fields).server
        seat, order = self._ordered(spec, request)
        seat.keep_order(order, spec.spawner)
        self._answer_with(request, seat)

    def _ordered(self, spec: ServerSpec, request: Request) -> tuple[Seat, Order]:
        """HostError when the student's port is not held; SpecError without the memory files."""
        seat = self._seat(spec.username)
        if (seat.uid, seat.port) != (spec.uid, spec.port) or not seat.sockets:
            raise HostError(f"port {spec.port} is not held for {spec.username}")
        _check_memory_files(request.descriptors)
        return seat, self._order(spec, seat, request.descriptors)

    def _order(self, spec: ServerSpec, seat: Seat, descriptors: Sequence[int]) -> Order:
        paths, locale = self._course.paths, self._course.locale
        jupyter = {
            "JUPYTER_CONFIG_PATH": paths.run / "etc/jupyter",
            "JUPYTER_PATH": paths.run / "share/jupyter",
            "JUPYTER_RUNTIME_DIR": paths.students_run / str(spec.uid),
        }
        environment = server_environment(
            spec.account,
            language=locale.language,
            time_zone=locale.time_zone,
            jupyter=jupyter,
            wanted={**_threads(spec.limits), **spec.environment},
        )
        has_tls = len(descriptors) == 3
        return Order(
            account=spec.account,
            listening=tuple(held.fileno() for held in seat.sockets),
            config=descriptors[0],
            certificate=descriptors[1] if has_tls else None,
            key=descriptors[2] if has_tls else None,
            environment=environment,
            sandbox=Sandbox(seat.group, spec.limits),
            is_isolated=spec.is_isolated,
            news=-1,
            slurm=spec.slurm,
        )

    def _mark_ready(self, request: Request) -> None:
        wanted = MarkReady.from_json(request.fields)
        seat = self._seat(wanted.username)
        if _is_of(seat, wanted):
            self._seats.mark_ready(seat)
        self._answer_with(request, seat)

    def _fail_server(self, request: Request) -> None:
        """End a server that does not answer in time; its state says why."""
        wanted = FailServer.from_json(request.fields)
        seat = self._seat(wanted.username)
        if not _is_of(seat, wanted):
            self._answer_with(request, seat)
            return
        self._seats.stop(
            seat,
            wanted.grace,
            lambda: self._answer_with(request, seat),
            final_state=ServerState.FAILED,
            reason=wanted.reason,
        )

    def _stop_servers(self, request: Request) -> None:
        """Answers when the last of them is gone."""
        wanted = StopServers.from_json(request.fields)
        chosen = self._chosen(wanted.usernames)
        self._course.stop_servers(
            chosen,
            wanted.grace,
            lambda: request.answer(self._reports(chosen)),
            keeps_runtime=wanted.keeps_sessions,
        )

    def _end_kernels(self, request: Request) -> None:
        """Answers when every server has reported, or did not in time."""
        chosen = self._chosen(EndKernels.from_json(request.fields).usernames)
        self._course.end_kernels(chosen, lambda outcomes: request.answer({"outcomes": dict(outcomes)}))

    def _start_front_page(self, request: Request) -> None:
        spec = StartFrontPage.from_json(request.fields).front
        _check_memory_files(request.descriptors)
        self._course.start_front_page(spec, request.descriptors)
        self._front_page(request)

    def _renew_front_page(self, request: Request) -> None:
        """Answers once the front page has taken it over, or has not."""
        if len(request.descriptors) != 1 or not is_sealed(request.descriptors[0]):
            raise SpecError("a config is needed as a sealed memory file")
        self._course.front.renew(request.descriptors[0], lambda done: request.answer({"is_renewed": done}))

    def _renew_jobs(self, request: Request) -> None:
        """Answers once the servers have taken it over, or have not."""
        if len(request.descriptors) != 1 or not is_sealed(request.descriptors[0]):
            raise SpecError("passwords are needed as a sealed memory file")
        chosen = self._chosen(RenewJobs.from_json(request.fields).usernames)
        passwords = request.descriptors[0]
        self._course.node_requests.renew(chosen, passwords, lambda kept: request.answer({"kept": list(kept)}))

    def _stop_front_page(self, request: Request) -> None:
        self._course.front.stop(lambda: self._front_page(request))

    def _front_page(self, request: Request) -> None:
        request.answer({"front": self._course.front_report()})

    def _start_proxy(self, request: Request) -> None:
        self._course.proxy.start(StartProxy.from_json(request.fields).proxy)
        self._front_page(request)

    def _appoint(self, request: Request) -> None:
        wanted = Appoint.from_json(request.fields).appointments
        if wanted is not None:
            self._course.appoint(wanted)
        request.answer({"appointments": self._course.appointments.wanted.to_json()})

    def _say(self, request: Request) -> None:
        wanted, course = Say.from_json(request.fields), self._course
        course.board.say(wanted.usernames, wanted.text, wanted.until)
        course.front.tell_message()
        request.answer(self._reports(self._chosen(wanted.usernames)))

    def _tell(self, request: Request) -> None:
        wanted, board = Tell.from_json(request.fields), self._course.board
        self._seat(wanted.username)
        if wanted.changed is not None:
            board.show_changed(wanted.username, wanted.changed)
        else:
            board.warn_of_disk(wanted.username, wanted.disk)
        request.answer({})

    def _invite(self, request: Request) -> None:
        """Refused unless the server runs or sleeps: a link to another one would lead nowhere."""
        wanted = Invite.from_json(request.fields)
        seat = self._seat(wanted.username)
        if seat.state in (ServerState.STOPPED, ServerState.FAILED) or self._course.front.state is not ServerState.READY:
            what = "the front page" if seat.is_up or seat.state is ServerState.ASLEEP else f"{seat.username}'s server"
            raise HostError(f"{what} does not run; there is no link", "Run `nblauncher launch`, then try again.")
        self._course.board.invite(wanted.username, wanted.digest, wanted.valid, wanted.lasts)
        self._answer_with(request, seat)

    def _end_visits(self, request: Request) -> None:
        ended = self._course.board.end_visits(EndVisits.from_json(request.fields).usernames)
        request.answer({"ended": ended})

    def _end(self, request: Request) -> None:
        seats = list(self._seats)
        self._course.end(End.from_json(request.fields).grace, lambda: request.answer(self._reports(seats)))

    def _chosen(self, usernames: Sequence[str] | None) -> list[Seat]:
        """The seats of these students, without those that have none; None: all seats."""
        if usernames is None:
            return list(self._seats)
        return [seat for name in dict.fromkeys(usernames) if (seat := self._seats.get(name)) is not None]

    def _seat(self, username: str) -> Seat:
        seat = self._seats.get(username)
        if seat is None:
            raise HostError(f"the supervisor holds no port for {username}")
        return seat

    def _reports(self, seats: Sequence[Seat]) -> dict[str, object]:
        return {"servers": [server_report(seat, self._seats.sign_ins).to_json() for seat in seats]}

    def _answer_with(self, request: Request, seat: Seat) -> None:
        request.answer({"server": server_report(seat, self._seats.sign_ins).to_json()})


def _is_of(seat: Seat, wanted: MarkReady | FailServer) -> bool:
    """Whether the seat still has the server that the command means."""
    if isinstance(seat.handle, JobHandle):
        return seat.handle.job == wanted.job
    return seat.handle is not None and seat.handle.pid == wanted.pid


def _threads(limits: Limits) -> dict[str, str]:
    """numpy's libraries start a thread for each processor of the host, which all count as processes."""
    if limits.cpus is None or limits.cpus >= (os.cpu_count() or 1):
        return {}
    return {"OMP_NUM_THREADS": str(math.ceil(limits.cpus))}


def _check_memory_files(descriptors: Sequence[int]) -> None:
    if len(descriptors) not in (1, 3) or not all(map(is_sealed, descriptors)):
        raise SpecError("a config, and with TLS a certificate and a key, are needed as sealed memory files")
