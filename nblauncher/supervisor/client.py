"""How root's commands talk to a course's supervisor.

with client.start(paths) as supervisor:                 # or client.connect(paths): None when there is none
    errors, notes = supervisor.bind(front_port, seats)
    supervisor.start_servers(orders, concurrency=4, deadline=120, on_event=...)
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from nblauncher.errors import BusyError, HostError
from nblauncher.model import ROOT, Account, Handle, ServerState, TlsFiles
from nblauncher.paths import CoursePaths
from nblauncher.server.notices import MOST_CHANGED
from nblauncher.supervisor import launching, requests
from nblauncher.supervisor.control_socket import UNKNOWN
from nblauncher.supervisor.nginx import ProxySpec, ProxyWanted
from nblauncher.supervisor.notice_requests import EndVisits, Invite, Say, Tell
from nblauncher.supervisor.requests import (
    Appoint,
    Bind,
    Drop,
    End,
    EndKernels,
    FailServer,
    KeepOrder,
    MarkReady,
    PortWanted,
    Prepare,
    Question,
    RenewFrontPage,
    RenewJobs,
    Servers,
    StartFrontPage,
    StartProxy,
    StartServer,
    StopServers,
)
from nblauncher.supervisor.schedule import Wanted
from nblauncher.supervisor.spawners import Forking, Preload
from nblauncher.supervisor.specs import DEFAULT_GRACE, FrontPageSpec, ServerReport, ServerSpec
from nblauncher.system import interruption, wire
from nblauncher.system.descriptors import sealed

START_DEADLINE = 60.0
"""Seconds until a supervisor that was just started must listen."""

ANSWER_DEADLINE = 30.0
_SWEEPING = 30.0
_RENEW = "`nblauncher shutdown`, then `nblauncher launch`, gives it the installed release."
_ENDING_KERNELS = 30.0
"""More than the supervisor waits for the servers."""


@dataclass(frozen=True, slots=True)
class ServerOrder:
    """A student's server with its secrets: `config` is the JSON of nblauncher.server, made by `server_config`."""

    spec: ServerSpec
    config: bytes = field(repr=False)
    tls: TlsFiles | None = field(repr=False, default=None)
    socket: str = ""
    """Where it listens behind the proxy; empty: on its port."""


@dataclass(frozen=True, slots=True)
class FrontPageReport:
    """The state of the front page."""

    state: ServerState
    reason: str
    port: int
    handle: Handle | None
    last_lines: tuple[str, ...]
    proxy_config: str = ""
    """The config of the nginx in front of it."""
    proxy_is_starting: bool = False
    proxy_ports: tuple[int, ...] = ()
    """The ports that could be held for it."""


@dataclass(frozen=True, slots=True)
class Hello:
    """About the supervisor: the release that the class keeps, its pid, its start (Unix seconds), the kind of control
    groups, and how kernels start (one of an older release does not report that).
    """

    version: str
    pid: int
    started_at: float
    groups: str
    kernels: Forking


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole class at one moment; `kernels` is None if the supervisor is of a release that does not report it."""

    servers: tuple[ServerReport, ...]
    front_page: FrontPageReport
    kernels: Forking | None


def connect(paths: CoursePaths) -> Client | None:
    """The course's supervisor, or None when none runs. Runs as root."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(str(paths.supervisor_socket))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise HostError(f"cannot ask the supervisor: {error.strerror}") from error
    return Client(connection)


def start(paths: CoursePaths) -> Client:
    """The course's supervisor, started when none runs; a new one adopts the servers that a killed one left.

    HostError, RefusedError or BusyError when it cannot be started.
    """
    deadline = time.monotonic() + START_DEADLINE
    while True:
        client = connect(paths)
        if client is not None:
            return client
        try:
            launching.launch(paths.course, START_DEADLINE)
        except BusyError:
            # Another command is starting one, or the last one is ending.
            if time.monotonic() > deadline:
                raise
            interruption.sleep(0.1)


class Client:
    """A connection to the supervisor. Requests are answered in turn; HostError when one is refused or it has gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = wire.Reader()
        self._number = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._reader.close()

    def hello(self) -> Hello:
        answer = self._ask(requests.HELLO)
        kernels = Forking(**answer.get("kernels", {"state": "off"}))
        return Hello(answer["version"], answer["pid"], answer["started_at"], answer["groups"], kernels)

    def bind(
        self, ports: Sequence[PortWanted], addresses: Sequence[str] = (), proxy: ProxyWanted | None = None
    ) -> tuple[dict[str, HostError], tuple[str, ...]]:
        """Hold these ports; those held already are left alone. `addresses` are web.bind. With a proxy its ports are
        held, and for each student a socket behind it.

        Returns what could not be held, by username ("" for the front page), and notes for the teacher.
        """
        answer = self._ask(Bind(tuple(ports), tuple(addresses), proxy))
        errors = {username: HostError(*words) for username, words in answer["errors"].items()}
        return errors, tuple(answer["notes"])

    def drop(self, usernames: Sequence[str]) -> None:
        """Close these students' ports. HostError while one of their servers runs."""
        self._ask(Drop(tuple(usernames)))

    def servers(self, usernames: Iterable[str] | None = None) -> tuple[ServerReport, ...]:
        """Reports on these students' servers, or on all, without students whose port is not held."""
        answer = self._ask(Servers(None if usernames is None else tuple(usernames)))
        return tuple(map(ServerReport.from_json, answer["servers"]))

    def overview(self) -> Overview:
        """Everything that `status` shows, in one question."""
        answer = self._ask(Servers())
        kernels = Forking(**answer["kernels"]) if "kernels" in answer else None
        return Overview(tuple(map(ServerReport.from_json, answer["servers"])), _front_report(answer["front"]), kernels)

    def front_page(self) -> FrontPageReport:
        return _front_report(self._ask(requests.FRONT_PAGE)["front"])

    def prepare(self, spawner: str, *, at_first_use: bool = False, kernels: Preload | None = None) -> None:
        """Servers are about to be started with this spawner: load fork servers now, or with the first server. Kernels
        have one only with `kernels`.
        """
        self._ask(Prepare(spawner, at_first_use, kernels))

    def start_server(self, order: ServerOrder, *, on_demand: bool = False) -> ServerReport:
        """Start a server, now or on demand, unless it is running already. Does not wait until it answers."""
        with _memory_files(order.config, order.tls, order.spec.account) as descriptors:
            answer = self._ask(StartServer(order.spec, on_demand), descriptors)
        return ServerReport.from_json(answer["server"])

    def keep_order(self, order: ServerOrder) -> ServerReport:
        """The student's next server is started with this, whoever starts it. HostError when the port is not held, or
        the supervisor is of a release that cannot do it.
        """
        with _memory_files(order.config, order.tls, order.spec.account) as descriptors:
            answer = self._ask(KeepOrder(order.spec), descriptors)
        return ServerReport.from_json(answer["server"])

    def mark_ready(self, report: ServerReport) -> ServerReport:
        """The server answered a real request."""
        return self._about(MarkReady(report.username, report.handle.pid if report.handle else None, report.job))

    def fail_server(self, report: ServerReport, reason: str, grace: float = DEFAULT_GRACE) -> ServerReport:
        """End a server that does not answer; its state will say `reason`."""
        pid = report.handle.pid if report.handle else None
        return self._about(FailServer(report.username, pid, reason, grace, report.job), grace + _SWEEPING)

    def stop_servers(
        self, usernames: Sequence[str] | None = None, *, grace: float = DEFAULT_GRACE, keeps_sessions: bool = False
    ) -> tuple[ServerReport, ...]:
        """Stop these students' servers (None: all) with everything that they started; waits until they are gone."""
        names = None if usernames is None else tuple(usernames)
        answer = self._ask(StopServers(names, grace, keeps_sessions), deadline=grace + _SWEEPING)
        return tuple(map(ServerReport.from_json, answer["servers"]))

    def end_kernels(self, usernames: Sequence[str]) -> dict[str, int | str]:
        """Have these servers end their kernels: how many each ended, or why that is not known. HostError."""
        answer = self._ask(EndKernels(tuple(usernames)), deadline=_ENDING_KERNELS)
        return {str(name): outcome for name, outcome in answer["outcomes"].items()}

    def appointments(self, wanted: Wanted | None = None) -> Wanted:
        """The present schedule, after `wanted` has replaced it."""
        return Wanted.from_json(self._ask(Appoint(wanted))["appointments"])

    def say(self, usernames: Iterable[str] | None, text: str, until: int | None) -> tuple[ServerReport, ...]:
        """Show a message to these students, None: to the class; no text clears. Reports on those who see it."""
        names = None if usernames is None else tuple(usernames)
        return tuple(map(ServerReport.from_json, self._ask(Say(names, text, until))["servers"]))

    def tell_changed(self, username: str, paths: Sequence[str]) -> None:
        """A delivery changed these files below the student's home. HostError if the student has no port."""
        self._ask(Tell(username, changed=tuple(paths[:MOST_CHANGED])))

    def tell_disk(self, username: str, disk: tuple[int, int] | None) -> None:
        """Bytes that the student's files take, and may take; None: there is room. HostError as `tell_changed`."""
        self._ask(Tell(username, disk=disk))

    def invite(self, username: str, digest: str, *, valid: int, lasts: int) -> ServerReport:
        """A link works once within `valid` seconds. HostError when the student's server does not run."""
        return self._about(Invite(username, digest, valid, lasts))

    def end_visits(self, usernames: Iterable[str] | None) -> int:
        """End the teacher's visits, and void unused links; how many there were."""
        return int(self._ask(EndVisits(None if usernames is None else tuple(usernames)))["ended"])

    def start_front_page(self, spec: FrontPageSpec, config: bytes, tls: TlsFiles | None) -> FrontPageReport:
        """Start the front page; `config` is the JSON of nblauncher.web. Does not wait until it answers."""
        with _memory_files(config, tls, spec.account) as descriptors:
            answer = self._ask(StartFrontPage(spec), descriptors)
        return _front_report(answer["front"])

    def renew_front_page(self, config: bytes, account: Account) -> bool:
        """Let the running front page know other students and passwords. False if it did not take them over."""
        with _memory_files(config, None, account) as descriptors:
            return self._ask(RenewFrontPage(), descriptors)["is_renewed"] is True

    def renew_jobs(self, hashed: Mapping[str, tuple[str, str]]) -> list[str]:
        """Give these students' servers on nodes other passwords: username → the hash of the last one and that of the
        new one. Returns whose servers have taken it over.
        """
        with _memory_files(json.dumps(hashed).encode("ascii"), None, ROOT) as descriptors:
            return list(map(str, self._ask(RenewJobs(tuple(hashed)), descriptors)["kept"]))

    def start_proxy(self, spec: ProxySpec) -> None:
        """Start the class's nginx, or a new one in place of the one that runs. Does not wait until it answers."""
        self._ask(StartProxy(spec))

    def wait_for_front_page(self, deadline: float) -> FrontPageReport:
        """Wait until it answers or has died, at most `deadline` seconds."""
        until = time.monotonic() + deadline
        while (report := self.front_page()).state is ServerState.STARTING and time.monotonic() < until:
            interruption.sleep(0.05)
        return report

    def stop_front_page(self) -> FrontPageReport:
        """Stop the front page, not the servers; waits until it is gone. It is not started again by itself."""
        return _front_report(self._ask(requests.STOP_FRONT_PAGE, deadline=_SWEEPING)["front"])

    def end(self, *, grace: float = DEFAULT_GRACE) -> tuple[ServerReport, ...]:
        """Stop every server, the front page and the supervisor; waits until they are gone."""
        answer = self._ask(End(grace), deadline=grace + 2 * _SWEEPING)
        reports = tuple(map(ServerReport.from_json, answer["servers"]))
        if any(report.state is ServerState.UNKNOWN for report in reports):
            return reports  # it stays until the end of these jobs is confirmed
        with contextlib.suppress(OSError, HostError):
            # It hangs up when it has removed everything.
            self._receive(time.monotonic() + _SWEEPING)
        return reports

    def _about(self, question: Question, deadline: float = ANSWER_DEADLINE) -> ServerReport:
        return ServerReport.from_json(self._ask(question, deadline=deadline)["server"])

    def _ask(
        self, question: Question, descriptors: Sequence[int] = (), deadline: float = ANSWER_DEADLINE
    ) -> dict[str, Any]:
        self._number += 1
        until = time.monotonic() + deadline
        try:
            self._connection.settimeout(deadline)
            wire.send(self._connection, {**question.to_json(), "ask": question.name, "id": self._number}, descriptors)
            while True:
                answer = self._receive(until)
                if answer.get("id") == self._number:
                    break
        except (OSError, wire.WireError) as error:
            raise HostError(f"the supervisor did not answer: {error}", "Run `nblauncher launch` again.") from error
        if "problem" in answer:
            if answer["problem"].endswith(UNKNOWN):
                raise HostError("the class runs with an older release, which cannot do this", _RENEW)
            raise HostError(answer["problem"], answer["hint"])
        return answer

    def _receive(self, until: float) -> dict[str, Any]:
        while (message := self._reader.next()) is None:
            self._connection.settimeout(max(0.01, until - time.monotonic()))
            if not self._reader.feed(self._connection):
                raise HostError("the supervisor hung up", "Run `nblauncher launch` again.")
        wire.close_all(message[1])
        return message[0]


@contextlib.contextmanager
def _memory_files(config: bytes, tls: TlsFiles | None, owner: Account) -> Iterator[list[int]]:
    descriptors: list[int] = []
    try:
        for content in (config, *((tls.certificate, tls.key) if tls else ())):
            descriptors.append(sealed(content, owner))
        yield descriptors
    finally:
        wire.close_all(descriptors)


def _front_report(given: Mapping[str, Any]) -> FrontPageReport:
    handle = None if given["pid"] is None else Handle(int(given["pid"]), int(given["start_time"]))
    state = ServerState(given["state"])
    about = state, given["reason"], given["port"], handle, tuple(given["last_lines"])
    proxy = given["proxy_config"], given["proxy_is_starting"], tuple(map(int, given["proxy_ports"]))
    return FrontPageReport(*about, *proxy)


def log_file(paths: CoursePaths, username: str) -> Path:
    """The log with the output of the student's server."""
    return paths.logs / f"{username}.log"
