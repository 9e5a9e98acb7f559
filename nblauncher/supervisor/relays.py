"""Relays: what comes to a student's port is passed on to the node on which the student's job runs.

The supervisor goes on holding the sockets. A relay takes them over while the server answers: systemd-socket-proxyd, or
where that is missing a small one of our own, as the front page's account. It passes bytes; TLS is between the browser
and the server on the node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Groups
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec, fork_run
from nblauncher.model import Account, Handle, ServerState
from nblauncher.supervisor import ports, small_relay
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat
from nblauncher.system import processes

log = logging.getLogger(__name__)

PROGRAM = Path("/lib/systemd/systemd-socket-proxyd")
ACCOUNT = "nblauncher"
PAUSE = 5.0
"""Seconds until a relay that died is started again, if it died soon after its start."""

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass
class _Relay:
    seat: Seat
    handle: Handle
    output: CappedLog
    target: str
    started_at: float
    is_unwanted: bool = False


class Relays:
    """`keep` is called after every change."""

    def __init__(self, loop: Loop, groups: Groups, logs: Path, program: Path = PROGRAM) -> None:
        self._loop, self._logs, self._program = loop, logs, program
        self._group = groups.group("relays")
        self._running: dict[int, _Relay] = {}
        self._not_before: dict[str, float] = {}

    def keep(self, seats: Iterable[Seat]) -> None:
        """A relay for each server that answers on a node, and no others. Cheap when nothing has changed."""
        by_name = {relay.seat.username: relay for relay in self._running.values()}
        for seat in seats:
            if not seat.is_remote and seat.relay is None:
                continue
            target, relay = _target(seat), by_name.get(seat.username)
            if relay is not None and (relay.target != target or relay.seat is not seat):
                self._end(relay)
            elif relay is None and target and time.monotonic() >= self._not_before.get(seat.username, 0.0):
                self._start(seat, target)

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended. Returns whether it was a relay."""
        relay = self._running.pop(pid, None)
        if relay is None:
            return False
        relay.output.close()
        seat = relay.seat
        if seat.relay == relay.handle:
            seat.relay = None
        if not relay.is_unwanted:
            words = processes.exit_words(status)
            log.error("the relay to %s's server, pid %d, ended: %s", seat.username, pid, words)
            seat.cluster.trouble = f"the relay to the server died ({words}) and was started again"
            if time.monotonic() - relay.started_at < PAUSE:
                self._not_before[seat.username] = time.monotonic() + PAUSE
                self._loop.later(PAUSE, lambda: None)  # then `keep` looks again
        if not self._running:
            self._group.remove()
        return True

    def close(self) -> None:
        for relay in list(self._running.values()):
            self._end(relay)

    def _start(self, seat: Seat, target: str) -> None:
        try:
            ports.listen_again(seat.sockets)
            self._group.create()
            handle, output = self._fork(tuple(held.fileno() for held in seat.sockets), target)
        except HostError as error:
            log.error("no relay to %s's server: %s", seat.username, error.problem)
            seat.cluster.trouble = f"no relay to the server: {error.problem}"
            self._not_before[seat.username] = time.monotonic() + PAUSE
            self._loop.later(PAUSE, lambda: None)
            return
        kept = CappedLog(self._loop, output, self._logs / f"_relay-{seat.username}.log")
        self._running[handle.pid] = _Relay(seat, handle, kept, target, time.monotonic())
        seat.relay = handle
        log.info("the relay of %s's port to %s is pid %d", seat.username, target, handle.pid)

    def _fork(self, listening: tuple[int, ...], target: str) -> tuple[Handle, int]:
        sandbox = Sandbox(self._group, score=limits.OURS)
        if self._program.exists():
            argv = (str(self._program), "--connections-max=1024", target)
            return fork_exec(Child(account(), argv, _ENVIRONMENT, listening, Path("/"), sandbox, listening))
        host, _colon, port = target.rpartition(":")
        child = Child(account(), (), {}, listening, Path("/"), sandbox)
        return fork_run(child, partial(small_relay.serve, listening, host.strip("[]"), int(port)))

    def _end(self, relay: _Relay) -> None:
        """Safe by pid: it is our child and has not been reaped."""
        if not relay.is_unwanted:
            relay.is_unwanted = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(relay.handle.pid, signal.SIGKILL)


def _target(seat: Seat) -> str:
    """Where its bytes go; empty: nowhere."""
    cluster = seat.cluster
    if not seat.is_remote or seat.state is not ServerState.READY or seat.stopping is not None or not seat.sockets:
        return ""
    if not cluster.address or not cluster.port:
        return ""
    return f"[{cluster.address}]:{cluster.port}" if ":" in cluster.address else f"{cluster.address}:{cluster.port}"


def account() -> Account:
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError as error:
        raise HostError(f"the account {ACCOUNT} is missing", "Run `nblauncher launch` again.") from error
    return Account(ACCOUNT, entry.pw_uid, entry.pw_gid, Path("/"))
