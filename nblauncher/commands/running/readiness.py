"""Starts servers, several at a time, each with a deadline; ready when its own URL answers over TLS."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from nblauncher.errors import HostError
from nblauncher.model import NO_ANSWER, ServerState
from nblauncher.supervisor.client import Client, ServerOrder
from nblauncher.supervisor.specs import ServerReport
from nblauncher.system import interruption

ATTEMPT = 5.0
"""Seconds for one request."""

QUEUE_PATIENCE = 20.0
"""Seconds that a command waits for a job in the cluster's queue."""

_PAUSE = 0.15
_MOST_CHECKS = 32
_MAX_STATUS_LINE = 64
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one student's start went; `was_running` when nothing had to be started."""

    username: str
    state: ServerState
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    was_running: bool = False


@dataclass
class _Waiting:
    order: ServerOrder
    report: ServerReport
    deadline: float
    until: float
    was_running: bool
    check: Future[bool] | None
    queued_since: float | None = None


@dataclass(frozen=True)
class _Checks:
    """Checks in threads whether servers answer."""

    pool: ThreadPoolExecutor
    addresses: Sequence[str]

    def begin(self, order: ServerOrder, *, pause: float = 0.0) -> Future[bool]:
        """Of a job, only once the supervisor knows where it listens: until then no process accepts connections."""
        username, port, has_tls, path = order.spec.username, order.spec.port, order.tls is not None, order.socket

        def check() -> bool:
            time.sleep(pause)
            if path:
                return answers_at(path, username, has_tls=has_tls)
            return answers(username, port, has_tls=has_tls, addresses=self.addresses)

        return self.pool.submit(check)


def start_servers(
    client: Client,
    orders: Sequence[ServerOrder],
    *,
    concurrency: int,
    deadline: float,
    on_event: Callable[[Outcome], None],
    addresses: Sequence[str] = (),
) -> list[Outcome]:
    """Start every server that does not run, `concurrency` at a time, and wait until each one answers.

    Each server has `deadline` seconds of its own. `addresses` are web.bind. `on_event` is called once per student, as
    soon as the outcome is known: at once for a server that died, with the end of its log. A server that does not answer
    in time is stopped. Servers that ran already (adopted ones too) must answer as well.
    """
    outcomes: list[Outcome] = []
    todo = list(orders)
    waiting: list[_Waiting] = []

    def is_over(outcome: Outcome) -> None:
        outcomes.append(outcome)
        on_event(outcome)

    with ThreadPoolExecutor(max_workers=max(1, min(concurrency, _MOST_CHECKS)), thread_name_prefix="ready") as pool:
        checks = _Checks(pool, addresses)
        while todo or waiting:
            while todo and len(waiting) < concurrency:
                order = todo.pop(0)
                try:
                    waiting.append(_begin(client, order, deadline, checks))
                except HostError as error:
                    is_over(Outcome(order.spec.username, ServerState.FAILED, error.problem))
            interruption.check()
            # A connection waits in the port's backlog, so that a check ends as soon as the server accepts it.
            pending = [server.check for server in waiting if server.check is not None]
            wait(pending, timeout=_PAUSE, return_when=FIRST_COMPLETED)
            if not pending:
                interruption.sleep(_PAUSE)
            starting = waiting
            waiting = []
            for server, outcome in _outcomes(client, starting, checks):
                if outcome is None:
                    waiting.append(server)
                elif outcome.reason == NO_ANSWER and server.was_running:
                    todo.append(server.order)  # it ran before this command began, and hangs: restart it
                else:
                    is_over(outcome)
    return outcomes


def arm_servers(client: Client, orders: Sequence[ServerOrder], *, on_event: Callable[[Outcome], None]) -> list[Outcome]:
    """Have every server that does not run started by its student's first connection. `on_event`: once per student."""
    outcomes = []
    for order in orders:
        try:
            report = client.start_server(order, on_demand=True)
            was_running = report.is_there
            outcome = Outcome(report.username, report.state, report.reason, report.last_lines, was_running)
        except HostError as error:
            outcome = Outcome(order.spec.username, ServerState.FAILED, error.problem)
        outcomes.append(outcome)
        on_event(outcome)
    return outcomes


def answers(
    username: str, port: int, *, has_tls: bool, addresses: Sequence[str] = (), timeout: float = ATTEMPT
) -> bool:
    """Whether the student's URL answers a real request on this host: 200 for its api, without signing in.

    The other side is a student's process: one short line is read, within `timeout` seconds in all, and only its status
    is parsed. The certificate is not checked; the question is whether TLS works at all.
    """
    return _answers(port, f"/user/{username}/api", has_tls, addresses, timeout)


def page_answers(port: int, *, has_tls: bool, addresses: Sequence[str] = (), timeout: float = ATTEMPT) -> bool:
    """The same for the front page."""
    return _answers(port, "/", has_tls, addresses, timeout)


def _answers(port: int, path: str, has_tls: bool, addresses: Sequence[str], timeout: float) -> bool:
    until = time.monotonic() + timeout
    for host in addresses or ("127.0.0.1",):
        # A wildcard address of web.bind includes loopback.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        try:
            return _ask(host, port, path, has_tls, until)
        except (OSError, ValueError):
            continue
    return False


def _ask(host: str, port: int, path: str, has_tls: bool, until: float) -> bool:
    with socket.create_connection((host, port), timeout=_rest(until)) as plain:
        return _speak(plain, has_tls, f"localhost:{port}", path, until)


def _speak(plain: socket.socket, has_tls: bool, host: str, path: str, until: float) -> bool:
    plain.setblocking(False)
    with _with_tls(plain, until) if has_tls else plain as connection:
        return _get(connection, host, path, until)


def _get(connection: socket.socket, host: str, path: str, until: float) -> bool:
    """Non-blocking, because a socket timeout restarts with every byte that the other side sends."""
    connection.setblocking(False)
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii")
    _until_done(connection, lambda: connection.sendall(request), until)
    line = b""
    while b"\n" not in line and len(line) < _MAX_STATUS_LINE:
        part = _until_done(connection, lambda: connection.recv(_MAX_STATUS_LINE), until)
        if not part:
            break
        line += part
    return line.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))


def _with_tls(plain: socket.socket, until: float) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = context.wrap_socket(plain, do_handshake_on_connect=False)
    _until_done(connection, connection.do_handshake, until)
    return connection


def _until_done(connection: socket.socket, act: Callable[[], _Result], until: float) -> _Result:
    """Retry whenever the connection is ready. A small request is sent as one record or not at all."""
    while True:
        try:
            return act()
        except (ssl.SSLWantReadError, BlockingIOError):
            select.select([connection], [], [], _rest(until))
        except ssl.SSLWantWriteError:
            select.select([], [connection], [], _rest(until))


def _rest(until: float) -> float:
    rest = until - time.monotonic()
    if rest <= 0:
        raise TimeoutError("no answer in time")
    return rest


def _begin(client: Client, order: ServerOrder, deadline: float, checks: _Checks) -> _Waiting:
    before = next(iter(client.servers([order.spec.username])), None)
    report = client.start_server(order)
    was_running = before is not None and before.is_there and (before.handle, before.job) == (report.handle, report.job)
    check = None if _is_remote(order) else checks.begin(order)
    return _Waiting(order, report, deadline, time.monotonic() + deadline, was_running, check)


def _is_remote(order: ServerOrder) -> bool:
    return bool(order.spec.slurm)


def _outcomes(
    client: Client, waiting: Sequence[_Waiting], checks: _Checks
) -> Iterator[tuple[_Waiting, Outcome | None]]:
    """Each server with its outcome, None while it is still starting."""
    reports = {report.username: report for report in client.servers([server.order.spec.username for server in waiting])}
    for server in waiting:
        yield server, _outcome(client, server, reports[server.order.spec.username], checks)


def answers_at(path: str, username: str, *, has_tls: bool, timeout: float = ATTEMPT) -> bool:
    """As `answers`, for a server behind the proxy."""
    until = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as plain:
            plain.settimeout(_rest(until))
            plain.connect(path)
            return _speak(plain, has_tls, "localhost", f"/user/{username}/api", until)
    except (OSError, ValueError):
        return False


def _outcome(client: Client, server: _Waiting, now: ServerReport, checks: _Checks) -> Outcome | None:
    username = server.order.spec.username
    if _is_remote(server.order):
        if now.state is ServerState.UNKNOWN:
            return Outcome(username, ServerState.UNKNOWN, now.reason, was_running=server.was_running)
        if now.state is ServerState.QUEUED:
            return _queued(server, now)
        if server.check is None and now.state is ServerState.READY:
            server.check = checks.begin(server.order)
    if now.state not in (ServerState.STARTING, ServerState.READY):
        reason = f"it ended while it started: {now.reason}"
        return Outcome(username, ServerState.FAILED, reason, now.last_lines, server.was_running)
    if server.check is not None and server.check.done():
        if server.check.result():
            client.mark_ready(now)
            return Outcome(username, ServerState.READY, was_running=server.was_running)
        server.check = checks.begin(server.order, pause=_PAUSE)
    if time.monotonic() > server.until:
        failed = client.fail_server(now, NO_ANSWER)
        return Outcome(username, ServerState.FAILED, NO_ANSWER, failed.last_lines, server.was_running)
    return None


def _queued(server: _Waiting, now: ServerReport) -> Outcome | None:
    """A job may wait for hours, which is no failure. Once it runs it has its whole deadline."""
    server.until = time.monotonic() + server.deadline
    if server.queued_since is None:
        server.queued_since = time.monotonic()
    if time.monotonic() - server.queued_since < QUEUE_PATIENCE:
        return None
    return Outcome(now.username, ServerState.QUEUED, now.reason, was_running=server.was_running)
