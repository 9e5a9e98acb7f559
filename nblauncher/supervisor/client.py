"""How root's commands talk to a course's supervisor.

with client.start(paths) as supervisor:                 # or client.connect(paths): None when there is none
    errors, notes = supervisor.bind(front_port, seats)
    supervisor.start_servers(orders, concurrency=4, deadline=120, on_event=...)
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from nblauncher import interruption, processes, wire
from nblauncher.course import CoursePaths
from nblauncher.descriptors import sealed
from nblauncher.errors import BusyError, HostError, RefusedError
from nblauncher.model import Account, Handle, ServerState, TlsFiles
from nblauncher.spawners import Forking, Preload
from nblauncher.supervisor.appointments import Wanted
from nblauncher.supervisor.proxy import ProxySpec, ProxyWanted
from nblauncher.supervisor.specs import DEFAULT_GRACE, FrontPageSpec, ServerReport, ServerSpec

START_DEADLINE = 60.0
"""Seconds until a supervisor that was just started must listen."""

ANSWER_DEADLINE = 30.0
_SWEEPING = 30.0


@dataclass(frozen=True, slots=True)
class PortWanted:
    """A port to be held: a student's, or the front page's when `username` is None."""

    port: int
    username: str | None = None
    uid: int = 0


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
    """How the front page is."""

    state: ServerState
    reason: str
    port: int
    handle: Handle | None
    last_lines: tuple[str, ...]
    proxy_config: str = ""
    """What the nginx in front of it was started with."""
    proxy_is_starting: bool = False
    proxy_ports: tuple[int, ...] = ()
    """Those that could be held for it."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers: the release the class keeps, the supervisor's pid, since when (Unix seconds), which groups, and how
    kernels begin (one of an older release does not say).
    """

    version: str
    pid: int
    started_at: float
    groups: str
    kernels: Forking


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
            _launch(paths.course)
        except BusyError:
            # Somebody else just starts one, or the last one is just ending.
            if time.monotonic() > deadline:
                raise
            interruption.sleep(0.1)


class Client:
    """A connection to the supervisor. Requests are answered in turn; HostError when one is refused or it went away."""

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
        answer = self._ask("hello")
        kernels = Forking(**answer.get("kernels", {"state": "off"}))
        return Hello(answer["version"], answer["pid"], answer["started_at"], answer["groups"], kernels)

    def bind(
        self, ports: Sequence[PortWanted], addresses: Sequence[str] = (), proxy: ProxyWanted | None = None
    ) -> tuple[dict[str, HostError], tuple[str, ...]]:
        """Hold these ports; those held already are left alone. `addresses` are web.bind. With a proxy its ports are
        held, and for everybody a socket behind it.

        Returns what could not be held, by username ("" for the front page), and notes for the teacher.
        """
        wanted = [{"port": one.port, "username": one.username, "uid": one.uid} for one in ports]
        asked = {"ports": wanted, "addresses": list(addresses), "proxy": None if proxy is None else proxy.to_json()}
        answer = self._ask("bind", asked)
        errors = {username: HostError(*words) for username, words in answer["errors"].items()}
        return errors, tuple(answer["notes"])

    def drop(self, usernames: Sequence[str]) -> None:
        """Let go of these students' ports. HostError while one of their servers runs."""
        self._ask("drop", {"usernames": list(usernames)})

    def servers(self, usernames: Iterable[str] | None = None) -> tuple[ServerReport, ...]:
        """These students, or all of them, as far as their port is held."""
        asked = {} if usernames is None else {"usernames": list(usernames)}
        return tuple(map(ServerReport.from_json, self._ask("servers", asked)["servers"]))

    def front_page(self) -> FrontPageReport:
        return _front_report(self._ask("front_page")["front"])

    def prepare(self, spawner: str, *, at_first_use: bool = False, kernels: Preload | None = None) -> None:
        """Servers are about to be started with this spawner: fork servers begin to load, now or with the first. None is
        there for kernels without `kernels`.
        """
        wanted = None if kernels is None else {"python": kernels.python, "modules": list(kernels.modules)}
        self._ask("prepare", {"spawner": spawner, "at_first_use": at_first_use, "kernels": wanted})

    def start_server(self, order: ServerOrder, *, on_demand: bool = False) -> ServerReport:
        """Start a server, now or when somebody comes, or find that it runs already. Does not wait until it answers."""
        asked = {"server": order.spec.to_json(), "on_demand": on_demand}
        with _memory_files(order.config, order.tls, order.spec.account) as descriptors:
            answer = self._ask("start_server", asked, descriptors)
        return ServerReport.from_json(answer["server"])

    def mark_ready(self, report: ServerReport) -> ServerReport:
        """The server answered a real request."""
        return self._about("mark_ready", report, {})

    def fail_server(self, report: ServerReport, reason: str, grace: float = DEFAULT_GRACE) -> ServerReport:
        """End a server that does not answer; its state will say `reason`."""
        return self._about("fail_server", report, {"reason": reason, "grace": grace}, grace + _SWEEPING)

    def stop_servers(
        self, usernames: Sequence[str] | None = None, *, grace: float = DEFAULT_GRACE
    ) -> tuple[ServerReport, ...]:
        """Stop these students' servers (None: all) with everything that they started; waits until they are gone."""
        names = None if usernames is None else list(usernames)
        answer = self._ask("stop_servers", {"usernames": names, "grace": grace}, deadline=grace + _SWEEPING)
        return tuple(map(ServerReport.from_json, answer["servers"]))

    def appointments(self, wanted: Wanted | None = None) -> Wanted:
        """Which are kept, after the wanted ones have taken their place."""
        asked = {"appointments": None if wanted is None else wanted.to_json()}
        return Wanted.from_json(self._ask("appoint", asked)["appointments"])

    def start_front_page(self, spec: FrontPageSpec, config: bytes, tls: TlsFiles | None) -> FrontPageReport:
        """Start the front page; `config` is the JSON of nblauncher.web. Does not wait until it answers."""
        with _memory_files(config, tls, spec.account) as descriptors:
            answer = self._ask("start_front_page", {"front": spec.to_json()}, descriptors)
        return _front_report(answer["front"])

    def start_proxy(self, spec: ProxySpec) -> None:
        """Start the class's nginx, or a new one in place of the one that runs. Does not wait until it answers."""
        self._ask("start_proxy", {"proxy": spec.to_json()})

    def wait_for_front_page(self, deadline: float) -> FrontPageReport:
        """Until it answers or died, at most `deadline` seconds."""
        until = time.monotonic() + deadline
        while (report := self.front_page()).state is ServerState.STARTING and time.monotonic() < until:
            interruption.sleep(0.05)
        return report

    def stop_front_page(self) -> FrontPageReport:
        """Stop the front page, not the servers; waits until it is gone. It is not started again by itself."""
        return _front_report(self._ask("stop_front_page", deadline=_SWEEPING)["front"])

    def end(self, *, grace: float = DEFAULT_GRACE) -> tuple[ServerReport, ...]:
        """Stop every server, the front page and the supervisor; waits until they are gone."""
        answer = self._ask("end", {"grace": grace}, deadline=grace + 2 * _SWEEPING)
        with contextlib.suppress(OSError, HostError):
            # It hangs up when it has put everything away.
            self._receive(time.monotonic() + _SWEEPING)
        return tuple(map(ServerReport.from_json, answer["servers"]))

    def _about(
        self, ask: str, report: ServerReport, fields: Mapping[str, Any], deadline: float = ANSWER_DEADLINE
    ) -> ServerReport:
        pid = report.handle.pid if report.handle else None
        answer = self._ask(ask, {"username": report.username, "pid": pid, **fields}, deadline=deadline)
        return ServerReport.from_json(answer["server"])

    def _ask(
        self,
        ask: str,
        fields: Mapping[str, Any] | None = None,
        descriptors: Sequence[int] = (),
        deadline: float = ANSWER_DEADLINE,
    ) -> dict[str, Any]:
        self._number += 1
        until = time.monotonic() + deadline
        try:
            self._connection.settimeout(deadline)
            wire.send(self._connection, {**(fields or {}), "ask": ask, "id": self._number}, descriptors)
            while True:
                answer = self._receive(until)
                if answer.get("id") == self._number:
                    break
        except (OSError, wire.WireError) as error:
            raise HostError(f"the supervisor did not answer: {error}", "Run `nblauncher launch` again.") from error
        if "problem" in answer:
            raise HostError(answer["problem"], answer["hint"])
        return answer

    def _receive(self, until: float) -> dict[str, Any]:
        while (message := self._reader.next()) is None:
            self._connection.settimeout(max(0.01, until - time.monotonic()))
            if not self._reader.feed(self._connection):
                raise HostError("the supervisor hung up", "Run `nblauncher launch` again.")
        wire.close_all(message[1])
        return message[0]


def _launch(course: str) -> None:
    """Run a supervisor and read what it says about its start."""
    environment = {
        "PATH": processes.ENVIRONMENT["PATH"],
        "LANG": os.environ.get("LANG") or "C.UTF-8",
        **({"TZ": os.environ["TZ"]} if os.environ.get("TZ") else {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "nblauncher.supervisor", course],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: S101
    with process.stdout as stdout, process.stderr as stderr:
        line = _read_line(stdout.fileno(), START_DEADLINE)
        process.wait(ANSWER_DEADLINE)
        if not line:
            words = processes.last_words(stderr.read().decode(errors="replace"))
            raise HostError(f"the supervisor did not start: {words or 'see its log'}")
    said = json.loads(line)
    if "problem" in said:
        kind = {"BusyError": BusyError, "RefusedError": RefusedError}.get(said["kind"], HostError)
        raise kind(said["problem"], said["hint"])


def _read_line(descriptor: int, deadline: float) -> bytes:
    until = time.monotonic() + deadline
    line = b""
    while not line.endswith(b"\n"):
        if not interruption.wait([descriptor], max(0.0, until - time.monotonic())):
            raise HostError(f"the supervisor did not start within {deadline:.0f} s")
        part = os.read(descriptor, 65536)
        if not part:
            return b""
        line += part
    return line


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
    """Where the student's server's output is kept."""
    return paths.logs / f"{username}.log"
