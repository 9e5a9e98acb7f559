"""The class's own nginx as the supervisor keeps it: it inherits the ports, which the supervisor holds.

A new config is a new nginx beside the old one, on the same listening sockets: the old one takes no more connections,
serves those that it has until they end, and goes (SIGQUIT). Nobody is disconnected when students come and go.
Sources: nginx.org/en/docs/control.html (signals), ngx_add_inherited_sockets (the variable NGINX, which an upgrade of
the program uses; it is the only way to hand sockets over, and tests/system/test_server_nginx.py holds it down).
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

from nblauncher import limits, processes
from nblauncher.cgroups import Group, Groups, Kind
from nblauncher.children import Child, fork_exec
from nblauncher.errors import HostError
from nblauncher.model import Account, Handle, ServerState
from nblauncher.sandbox import Sandbox
from nblauncher.supervisor import ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.crowding import Crowding
from nblauncher.supervisor.loop import Loop, Timer, exit_words
from nblauncher.supervisor.specs import SpecError, checked_number, checked_port, checked_username

log = logging.getLogger(__name__)

RESTART_PAUSE = 10.0
_SWEEP_PAUSE = 0.05
_LOOK_AGAIN = 0.02


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """An nginx to be started: the program, as whom, with which config of root's, and how it is made again."""

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
            raise SpecError("that is no proxy")
        restart = given.get("restart_argv")
        if not isinstance(restart, list) or not all(isinstance(word, str) for word in restart):
            raise SpecError("restart_argv is no list of words")
        uid, gid = (checked_number(given.get(key), 1, 2**32 - 2) for key in ("uid", "gid"))
        account = Account(checked_username(given.get("username")), uid, gid, Path("/"))
        return cls(given["program"], account, given["config"], tuple(restart))


@dataclass(frozen=True, slots=True)
class ProxyWanted:
    """The ports that the proxy shall have, whose each is ("" is the front page's), and the proxy's group."""

    gid: int
    ports: Mapping[int, str]

    def to_json(self) -> dict[str, Any]:
        return {"gid": self.gid, "ports": list(self.ports.items())}

    @classmethod
    def from_json(cls, given: Any) -> ProxyWanted:
        if not isinstance(given, dict) or not isinstance(given.get("ports"), list):
            raise SpecError("those are no ports")
        if not all(isinstance(one, list) and len(one) == 2 for one in given["ports"]):
            raise SpecError("those are no ports")
        ports = {checked_port(port): str(whose) for port, whose in given["ports"]}
        return cls(checked_number(given.get("gid"), 1, 2**32 - 2), ports)


@dataclass
class _Instance:
    """One nginx: master and workers are in a control group of their own."""

    spec: ProxySpec
    handle: Handle
    output: CappedLog
    group: Group

    @property
    def works(self) -> bool:
        """nginx writes its pid when it has taken config, certificate and sockets."""
        return Path(self.spec.pid_file).exists()

    def end(self) -> None:
        """Workers outlive a master that was killed, and would take connections for ever."""
        self.output.close()
        self.group.kill()


class Proxy:
    """One per course; without `start` it is nothing."""

    def __init__(self, loop: Loop, groups: Groups, logs: Path) -> None:
        self._loop, self._logs, self._groups = loop, logs, groups
        self._sockets: dict[int, list[socket.socket]] = {}
        self._crowding = Crowding(loop)
        self._now: _Instance | None = None
        self._next: _Instance | None = None
        """One that has not shown yet that it works; until then the last one serves."""
        self._old: list[_Instance] = []
        self._count = 0
        self._timer: Timer | None = None
        self._restarted_at = float("-inf")
        self._stopping: list[Callable[[], None]] | None = None
        self.state, self.reason = ServerState.STOPPED, ""
        self.last_lines: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        """It holds ports."""
        return bool(self._sockets)

    def bind(self, wanted: Mapping[int, str], addresses: Sequence[str]) -> tuple[dict[str, HostError], list[str]]:
        """Hold these ports and no others: what could not be held, by whose it is, and notes for the teacher."""
        errors: dict[str, HostError] = {}
        notes: list[str] = []
        for port in self._sockets.keys() - wanted.keys():
            self._close(self._sockets.pop(port))
        for port, whose in wanted.items():
            if port in self._sockets:
                continue
            try:
                self._sockets[port], about = ports.open_port(port, addresses)
                notes += about
            except HostError as error:
                errors[whose] = error
        self._crowding.watch(self._sockets)
        return errors, notes

    def start(self, spec: ProxySpec) -> None:
        """Start one with this config. When it works the one that runs takes no more connections, and serves those that
        it has to their end; when it does not, that one goes on. HostError.
        """
        listening = [one.fileno() for several in self._sockets.values() for one in several]
        if not listening:
            raise HostError("no port is held for the proxy")
        if self._next is not None:
            raise HostError("another nginx is just starting", "Try again in a moment.")
        self._cancel()
        self._count += 1
        group = self._groups.group(f"proxy-{self._count}")
        group.create()
        argv = (spec.program, "-p", str(Path(spec.config).parent), "-e", "stderr", "-c", spec.config)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NGINX": "".join(f"{one};" for one in listening)}
        child = Child(spec.account, argv, environment, tuple(listening), Path("/"), Sandbox(group, score=limits.OURS))
        handle, output = fork_exec(child)
        self._next = _Instance(spec, handle, CappedLog(self._loop, output, self._logs / "_proxy.log"), group)
        if self._now is None:
            self.state, self.reason = ServerState.STARTING, ""
        self.last_lines = ()
        log.info("started nginx, pid %d, with %s", handle.pid, spec.config)
        self._look()

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended: whether it was one of these."""
        known = [*self._old, *filter(None, (self._now, self._next))]
        instance = next((one for one in known if one.handle.pid == pid), None)
        if instance is None:
            return False
        log.info("nginx, pid %d, ended: %s", pid, exit_words(status))
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
            self.state, self.reason = ServerState.FAILED, exit_words(status)
            self._cancel()
            pause = max(0.0, self._restarted_at + RESTART_PAUSE - time.monotonic())
            self._timer = self._loop.later(pause, lambda: self._start_again(instance.spec))
        return True

    def stop(self, done: Callable[[], None]) -> None:
        """End all of them now, with the connections that they have."""
        if self._stopping is not None:
            self._stopping.append(done)
            return
        self._cancel()
        self._stopping = [done]
        self._sweep()

    def close(self) -> None:
        for several in self._sockets.values():
            self._close(several)
        self._sockets = {}
        self._crowding.watch(())

    def report(self) -> dict[str, Any]:
        """`config` is what the one that serves was started with."""
        return {
            "state": self.state.value,
            "reason": self.reason,
            "config": self._now.spec.config if self._now else "",
            "is_starting": self._next is not None,
            "ports": sorted(self._sockets),
            "last_lines": list(self.last_lines),
        }

    def _look(self) -> None:
        """Whether the new one works."""
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
                for one in (*self._old, *filter(None, (self._now, self._next))):
                    processes.send_signal(one.handle, signal.SIGTERM)
            self._timer = self._loop.later(_SWEEP_PAUSE, self._sweep)
            return
        for group in groups:
            group.remove()
        calls, self._stopping = self._stopping or [], None
        self.state, self.reason = ServerState.STOPPED, ""
        for call in calls:
            call()

    def _start_again(self, spec: ProxySpec) -> None:
        """By a command that makes config and key anew."""
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

    def _close(self, several: Sequence[socket.socket]) -> None:
        for one in several:
            with contextlib.suppress(OSError):
                one.close()
