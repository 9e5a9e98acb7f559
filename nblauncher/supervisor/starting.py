"""Starting a class: several servers at a time, each with a deadline, ready when its own URL answers over TLS."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from nblauncher import interruption, reasons
from nblauncher.errors import HostError
from nblauncher.model import ServerState
from nblauncher.supervisor.client import Client, ServerOrder
from nblauncher.supervisor.specs import ServerReport

ATTEMPT = 5.0
"""Seconds for one request."""

_PAUSE = 0.15
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
    until: float
    was_running: bool
    check: Future[bool]


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

    `deadline` in seconds is each server's own. `addresses` are web.bind. `on_event` is called once per student, as it
    becomes known. A server that dies is told at once, with the end of its log; one that does not answer in time is
    ended. Servers that ran already (adopted ones too) must answer as well.
    """
    outcomes: list[Outcome] = []
    todo = list(orders)
    waiting: list[_Waiting] = []

    def is_over(outcome: Outcome) -> None:
        outcomes.append(outcome)
        on_event(outcome)

    with ThreadPoolExecutor(max_workers=max(1, concurrency), thread_name_prefix="ready") as pool:
        while todo or waiting:
            while todo and len(waiting) < concurrency:
                order = todo.pop(0)
                try:
                    waiting.append(_begin(client, order, deadline, addresses, pool))
                except HostError as error:
                    is_over(Outcome(order.spec.username, ServerState.FAILED, error.problem))
            interruption.check()
            # A connection waits in the port's backlog, so that a check ends in the moment when the server takes it.
            wait([one.check for one in waiting], timeout=_PAUSE, return_when=FIRST_COMPLETED)
            now = client.servers([one.order.spec.username for one in waiting])
            reports = {report.username: report for report in now}
            still = []
            for one in waiting:
                outcome = _look(client, one, reports[one.order.spec.username], addresses, pool)
                if outcome is not None and outcome.reason == reasons.NO_ANSWER and one.was_running:
                    # It ran before we came and hangs: start it anew.
                    todo.append(one.order)
                elif outcome is None:
                    still.append(one)
                else:
                    is_over(outcome)
            waiting = still
    return outcomes


def lay_down_servers(
    client: Client, orders: Sequence[ServerOrder], *, on_event: Callable[[Outcome], None]
) -> list[Outcome]:
    """Have every server that does not run started when somebody comes. `on_event` is called once per student."""
    outcomes = []
    for order in orders:
        try:
            report = client.start_server(order, on_demand=True)
            was_running = report.handle is not None
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

    The other side is a student's process: one short line is read, within `timeout` seconds in all, and nothing is
    parsed but its status. The certificate is not checked here; what is asked is whether TLS works at all.
    """
    return _answers(port, f"/user/{username}/api", has_tls, addresses, timeout)


def page_answers(port: int, *, has_tls: bool, addresses: Sequence[str] = (), timeout: float = ATTEMPT) -> bool:
    """The same for the front page."""
    return _answers(port, "/", has_tls, addresses, timeout)


def _answers(port: int, path: str, has_tls: bool, addresses: Sequence[str], timeout: float) -> bool:
    until = time.monotonic() + timeout
    for host in addresses or ("127.0.0.1",):
        # A wildcard of web.bind listens on loopback too.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        try:
            return _ask(host, port, path, has_tls, until)
        except (OSError, ValueError):
            continue
    return False


def _ask(host: str, port: int, path: str, has_tls: bool, until: float) -> bool:
    with socket.create_connection((host, port), timeout=_rest(until)) as plain:
        plain.setblocking(False)
        connection = _with_tls(plain, until) if has_tls else plain
        with connection:
            return _get(connection, f"localhost:{port}", path, until)


def _get(connection: socket.socket, host: str, path: str, until: float) -> bool:
    """Without blocking, because a timeout counts anew for every byte that the other side lets through."""
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
    """Try again whenever the connection is ready. A request of one small record is sent whole or not at all."""
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


def _begin(
    client: Client, order: ServerOrder, deadline: float, addresses: Sequence[str], pool: ThreadPoolExecutor
) -> _Waiting:
    before = next(iter(client.servers([order.spec.username])), None)
    report = client.start_server(order)
    was_running = before is not None and before.handle is not None and before.handle == report.handle
    return _Waiting(order, report, time.monotonic() + deadline, was_running, _check(order, addresses, pool))


def answers_at(path: str, username: str, *, timeout: float = ATTEMPT) -> bool:
    """As `answers`, for a server behind the proxy."""
    until = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_rest(until))
            connection.connect(path)
            return _get(connection, "localhost", f"/user/{username}/api", until)
    except (OSError, ValueError):
        return False


def _check(
    order: ServerOrder, addresses: Sequence[str], pool: ThreadPoolExecutor, *, pause: float = 0.0
) -> Future[bool]:
    username, port, has_tls, path = order.spec.username, order.spec.port, order.tls is not None, order.socket

    def check() -> bool:
        time.sleep(pause)
        if path:
            return answers_at(path, username)
        return answers(username, port, has_tls=has_tls, addresses=addresses)

    return pool.submit(check)


def _look(
    client: Client, one: _Waiting, now: ServerReport, addresses: Sequence[str], pool: ThreadPoolExecutor
) -> Outcome | None:
    """The outcome if there is one by now."""
    username = one.order.spec.username
    if now.state not in (ServerState.STARTING, ServerState.READY):
        reason = f"it ended while it started: {now.reason}"
        return Outcome(username, ServerState.FAILED, reason, now.last_lines, one.was_running)
    if one.check.done():
        if one.check.result():
            client.mark_ready(now)
            return Outcome(username, ServerState.READY, was_running=one.was_running)
        one.check = _check(one.order, addresses, pool, pause=_PAUSE)
    if time.monotonic() > one.until:
        failed = client.fail_server(now, reasons.NO_ANSWER)
        return Outcome(username, ServerState.FAILED, reasons.NO_ANSWER, failed.last_lines, one.was_running)
    return None
