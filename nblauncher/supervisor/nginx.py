"""The class's own nginx as the supervisor keeps it: it inherits the ports, which the supervisor holds.

A new config means a new nginx beside the old one, on the same listening sockets: the old one accepts no more
connections, serves those that it has until they end, and exits (SIGQUIT). No client is disconnected by it.
Sources: nginx.org/en/docs/control.html (signals), ngx_add_inherited_sockets (the variable NGINX, which an upgrade of
the program uses; it is the only way to hand sockets over, and tests/system/test_server_nginx.py tests it).
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Group, Groups, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec
from nblauncher.model import Account, Handle, ServerState
from nblauncher.supervisor import ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.crowding import Crowding
from nblauncher.supervisor.loop import Loop, Timer
from nblauncher.supervisor.specs import SpecError, checked_account, checked_id, checked_port, checked_texts
from nblauncher.system import processes

log = logging.getLogger(__name__)

RESTART_PAUSE = 10.0
_SWEEP_PAUSE = 0.05
_LOOK_AGAIN = 0.02


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """An nginx to be started: the program, its account, its config (root's), and the command that restarts it."""

    program: str
    account: Account
    config: str
    restart_argv: tuple[str, ...]

    @property
    def pid_file(self) -> str:
        """As the config names it."""
        config = Path(self.config)
        return str(config.parent / "tmp" / f"{config.stem}.pid")

    def to_json(self) -> dict[str, Any]:
        account = self.account
        return {
            "program": self.program,
            "username": account.username,
            "uid": account.uid,
            "gid": account.gid,
            "config": self.config,
            "restart_argv": list(self.restart_argv),
        }

    @classmethod
    def from_json(cls, given: Any) -> ProxySpec:
        if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("program", "config")):
            raise SpecError("not a proxy")
        restart = checked_texts(given.get("restart_argv"))
        return cls(given["program"], checked_account(given), given["config"], restart)


@dataclass(frozen=True, slots=True)
class ProxyWanted:
    """The proxy's group, and its ports, each with the username of its student ("" for the front page)."""

    gid: int
    ports: Mapping[int, str]

    def to_json(self) -> dict[str, Any]:
        return {"gid": self.gid, "ports": list(self.ports.items())}

    @classmethod
    def from_json(cls, given: Any) -> ProxyWanted:
        if not isinstance(given, dict) or not isinstance(given.get("ports"), list):
            raise SpecError("not a mapping of ports")
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in given["ports"]):
            raise SpecError("not a mapping of ports")
        ports = {checked_port(port): str(username) for port, username in given["ports"]}
        return cls(checked_id(given.get("gid")), ports)


@dataclass
class _Instance:
    """One nginx: its master and workers, in a control group of their own."""

    spec: ProxySpec
    handle: Handle
    output: CappedLog
    group: Group

    @property
    def works(self) -> bool:
        """nginx writes its pid once it has accepted the config, the certificate and the sockets."""
        return Path(self.spec.pid_file).exists()

    def end(self) -> None:
        """Workers outlive a master that was killed, and would take connections for ever."""
        self.output.close()
        self.group.kill()


class Proxy:
    """One per course; it does nothing until `start`."""

    def __init__(self, loop: Loop, groups: Groups, logs: Path) -> None:
        self._loop, self._logs, self._groups = loop, logs, groups
        self._sockets: dict[int, list[socket.socket]] = {}
        self._crowding = Crowding(loop)
        self._now: _Instance | None = None
        self._next: _Instance | None = None
        """Not yet known to work; until then the last one serves."""
        self._old: list[_Instance] = []
        self._count = 0
        self._timer: Timer | None = None
        self._restarted_at = float("-inf")
        self._stopping: list[Callable[[], None]] | None = None
        self.state, self.reason = ServerState.STOPPED, ""
        self.last_lines: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        """Whether it holds ports."""
        return bool(self._sockets)

    def bind(self, wanted: Mapping[int, str], addresses: Sequence[str]) -> tuple[dict[str, HostError], list[str]]:
        """Hold these ports and no others. Returns what could not be held, by username, and notes for the teacher."""
        errors: dict[str, HostError] = {}
        notes: list[str] = []
        for port in self._sockets.keys() - wanted.keys():
            self._close(self._sockets.pop(port))
        for port, username in wanted.items():
            if port in self._sockets:
                continue
            try:
                self._sockets[port], about = ports.open_port(port, addresses)
                notes += about
            except HostError as error:
                errors[username] = error
        self._crowding.watch(self._sockets)
        return errors, notes

    def start(self, spec: ProxySpec) -> None:
        """Start one with this config. When it works, the present one accepts no more connections and serves those that
        it has until they end; when it does not, the present one goes on. HostError.
        """
        listening = [held.fileno() for sockets in self._sockets.values() for held in sockets]
        if not listening:
            raise HostError("no port is held for the proxy")
        if self._next is not None:
            raise HostError("another nginx is starting", "Try again in a moment.")
        self._cancel()
        self._count += 1
        group = self._groups.group(f"proxy-{self._count}")
        group.create()
        argv = (spec.program, "-p", str(Path(spec.config).parent), "-e", "stderr", "-c", spec.config)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NGINX": "".join(f"{number};" for number in listening)}
        child = Child(spec.account, argv, environment, tuple(listening), Path("/"), Sandbox(group, score=limits.OURS))
        handle, output = fork_exec(child)
        self._next = _Instance(spec, handle, CappedLog(self._loop, output, self._logs / "_proxy.log"), group)
        if self._now is None:
            self.state, self.reason = ServerState.STARTING, ""
        self.last_lines = ()
        log.info("started nginx, pid %d, with %s", handle.pid, spec.config)
        self._look()

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended. Returns whether it was one of these."""
        known = [*self._old, *filter(None, (self._now, self._next))]
        instance = next((instance for instance in known if instance.handle.pid == pid), None)
        if instance is None:
            return False
        log.info("nginx, pid %d, ended: %s", pid, processes.exit_words(status))
        instance.end()
        if instance in self._old:
            self._old.remove(instance)
            instance.group.remove()
            return True
        self.last_lines = instance.output.last_lines()
        if instance is self._next:
            self._next = None
        else:
            self._now = None
        if self._now is None and self._next is None and self._stopping is None:
            self.state, self.reason = ServerState.FAILED, processes.exit_words(status)
            self._cancel()
            pause = max(0.0, self._restarted_at + RESTART_PAUSE - time.monotonic())
            self._timer = self._loop.later(pause, lambda: self._start_again(instance.spec))
        return True

    def stop(self, done: Callable[[], None]) -> None:
        """End all of them now, together with their connections."""
        if self._stopping is not None:
            self._stopping.append(done)
            return
        self._cancel()
        self._stopping = [done]
        self._sweep()

    def close(self) -> None:
        for sockets in self._sockets.values():
            self._close(sockets)
        self._sockets = {}
        self._crowding.watch(())

    def report(self) -> dict[str, Any]:
        """`config` is that of the one that serves."""
        return {
            "state": self.state.value,
            "reason": self.reason,
            "config": self._now.spec.config if self._now else "",
            "is_starting": self._next is not None,
            "ports": sorted(self._sockets),
            "last_lines": list(self.last_lines),
        }

    def _look(self) -> None:
        """Check whether the new one works."""
        self._timer = None
        if self._next is None:
            return
        if not self._next.works:
            self._timer = self._loop.later(_LOOK_AGAIN, self._look)
            return
        if self._now is not None:
            processes.send_signal(self._now.handle, signal.SIGQUIT)
            self._old.append(self._now)
        self._now, self._next = self._next, None
        self.state, self.reason = ServerState.READY, ""

    def _sweep(self) -> None:
        groups = [self._groups.group(name) for name in self._groups.names() if name.startswith("proxy-")]
        if self._now or self._next or self._old or not all(group.is_empty() for group in groups):
            for group in groups:
                group.kill()
            if self._groups.kind is Kind.NONE:
                for instance in (*self._old, *filter(None, (self._now, self._next))):
                    processes.send_signal(instance.handle, signal.SIGTERM)
            self._timer = self._loop.later(_SWEEP_PAUSE, self._sweep)
            return
        for group in groups:
            group.remove()
        calls, self._stopping = self._stopping or [], None
        self.state, self.reason = ServerState.STOPPED, ""
        for call in calls:
            call()

    def _start_again(self, spec: ProxySpec) -> None:
        """Run the command that writes config and key again."""
        self._timer = None
        if not spec.restart_argv or self._now is not None or self._next is not None:
            return
        self._restarted_at = time.monotonic()
        try:
            processes.begin(spec.restart_argv)
        except OSError as error:
            log.error("nginx cannot be started again: %s", error)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, sockets: Sequence[socket.socket]) -> None:
        for held in sockets:
            with contextlib.suppress(OSError):
                held.close()
