"""A new password for running servers, while kernels and terminals go on; a server that cannot do it is restarted.

How a server takes it over, and tells: nblauncher.server.renewal.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nblauncher.auth import hashes
from nblauncher.commands.deadlines import freeze
from nblauncher.commands.running import classroom, front_page, shutdown, starting
from nblauncher.errors import HostError
from nblauncher.model import Handle, ServerState
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, SomeFailed
from nblauncher.server import renewal
from nblauncher.supervisor import client
from nblauncher.supervisor.client import Client, ServerOrder
from nblauncher.supervisor.specs import ServerReport
from nblauncher.system import interruption, processes

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a server may take. One that hangs is restarted."""

KEPT, RESTARTED, FROZEN = "kept", "restarted", "frozen"
_PAUSE = 0.05
_UP = (ServerState.QUEUED, ServerState.READY, ServerState.STARTING)


@dataclass(frozen=True)
class TellFrontPage:
    """A running front page: passwords that are valid from now on, and students who are locked out."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "tell the front page"

    def apply(self, host: Host) -> None:
        if front_page.is_up(host):
            front_page.StartFrontPage().apply(host)


@dataclass(frozen=True)
class RenewServers:
    """End every sign-in with the old password. After the front page, whose tickets are void by then.

    `before` are the hashes of the old passwords, which servers on nodes know the host by.
    """

    usernames: tuple[str, ...]
    before: Mapping[str, str] = field(default_factory=dict, repr=False)

    def describe(self) -> str:
        return f"end the sign-ins at {shutdown.servers_of(self.usernames)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            return {}
        with supervisor:
            orders, failures = starting.orders_of(host, self.usernames)
            reports = {report.username: report for report in supervisor.servers(self.usernames)}
            awake = [order for order in orders if _keep(supervisor, order, reports)]
            kept, frozen = _renew(host, awake, reports)
            kept += _renew_jobs(host, supervisor, awake, reports, self.before)
            classroom.record_renewed(host, kept)
            others = [order.spec.username for order in awake if order not in kept and order.spec.username not in frozen]
            if others:
                supervisor.stop_servers(others, grace=shutdown.GRACE)
        failures |= _start_again(host, others)
        if failures:
            raise SomeFailed(failures, "Their old passwords may still be valid. Run the command again.")
        names = {order.spec.username: KEPT for order in kept} | dict.fromkeys(others, RESTARTED)
        return {name: {"server": word} for name, word in (names | dict.fromkeys(frozen, FROZEN)).items()}


def _keep(supervisor: Client, order: ServerOrder, reports: dict[str, ServerReport]) -> bool:
    """Whether there is a running server to renew. One that sleeps, or died, is started with the new password."""
    report = reports.get(order.spec.username)
    if report is None or report.state in (ServerState.STOPPED, ServerState.FAILED):
        return False
    try:
        report = reports[order.spec.username] = supervisor.keep_order(order)
    except HostError as error:
        log.info("%s: %s", order.spec.username, error.problem)  # a supervisor of an older release
        return True
    return report.state in _UP


def _renew(
    host: Host, orders: Sequence[ServerOrder], reports: Mapping[str, ServerReport]
) -> tuple[list[ServerOrder], list[str]]:
    """Servers that took the password over, and students whose frozen server does so once it is thawed."""
    passwords, held = hashes.read(host.paths.hashes), freeze.words(host)
    waiting: list[tuple[ServerOrder, int]] = []
    kept, frozen = [], []
    try:
        for order in orders:
            name, handle = order.spec.username, reports[order.spec.username].handle
            if handle is None or not processes.catches(handle, renewal.SIGNAL):
                continue
            waiting.append((order, _hand_over(host, name, handle, passwords[name])))
            if name in held:
                frozen.append(name)
        until = time.monotonic() + PATIENCE
        while True:
            kept = [order for order, file in waiting if os.fstat(file).st_size == 0]
            if len(kept) + len(frozen) >= len(waiting) or time.monotonic() > until:
                return kept, [name for name in frozen if name not in _names(kept)]
            interruption.sleep(_PAUSE)
    finally:
        for order, file in waiting:
            os.close(file)
            if order.spec.username not in frozen:
                renewal.file_of(host.paths.run, order.spec.uid).unlink(missing_ok=True)


def _renew_jobs(
    host: Host,
    supervisor: Client,
    orders: Sequence[ServerOrder],
    reports: Mapping[str, ServerReport],
    before: Mapping[str, str],
) -> list[ServerOrder]:
    """Those on nodes that took the password over. A job that waits in the queue has the old one in its file."""
    passwords = hashes.read(host.paths.hashes)
    states = {name: reports[name].state for name in _names(orders) if reports[name].job is not None}
    ready = [name for name, state in states.items() if state is ServerState.READY and name in before]
    hashed = {name: (before[name], passwords[name]) for name in ready}
    try:
        kept = supervisor.renew_jobs(hashed) if hashed else []
    except HostError as error:
        log.info("%s", error.problem)  # a supervisor of an older release
        return []
    return [order for order in orders if order.spec.username in kept]


def _hand_over(host: Host, username: str, handle: Handle, hashed: str) -> int:
    """Write the hash where only this student's server reads it, and wake it up. Returns the file's descriptor."""
    account = survey.student_account(host, username)
    file = renewal.file_of(host.paths.run, account.uid)
    file.parent.mkdir(mode=0o711, exist_ok=True)
    file.parent.chmod(0o711)
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.write(descriptor, renewal.content(hashed))
    os.fchown(descriptor, account.uid, account.gid)
    processes.send_signal(handle, renewal.SIGNAL)
    return descriptor


def _start_again(host: Host, usernames: Sequence[str]) -> dict[str, str]:
    """Start these again, as they were started before; who was not, and why."""
    desired, failures = host.course_ledger.desired(), dict[str, str]()
    for on_demand in (False, True):
        chosen = tuple(name for name in usernames if (desired.get(name) == "asleep") == on_demand)
        try:
            if chosen:
                starting.StartServers(chosen, on_demand).apply(host)
        except SomeFailed as error:
            failures |= error.failures
    return failures


def _names(orders: Iterable[ServerOrder]) -> frozenset[str]:
    return frozenset(order.spec.username for order in orders)
