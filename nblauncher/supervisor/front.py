"""The front page's process as the supervisor keeps it: started, listened to, stopped, started again when it dies."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nblauncher import limits, processes
from nblauncher.cgroups import Groups, Kind
from nblauncher.children import Child, fork_exec
from nblauncher.errors import HostError
from nblauncher.model import Handle, ServerState
from nblauncher.sandbox import Sandbox
from nblauncher.supervisor import ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import WRITE, Loop, Timer, exit_words
from nblauncher.supervisor.seat import Behind
from nblauncher.supervisor.specs import FrontPageSpec

log = logging.getLogger(__name__)

GRACE = 5.0
RESTART_PAUSE = 10.0
"""Seconds between two attempts to start it again."""

_MAX_LINE = 4096
_MAX_UNSENT = 1 << 20
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_SWEEP_PAUSE = 0.05


class FrontPage:
    """One per course. `state_of(username)` answers its questions about students, with a reason; `wake` has a server
    started.
    """

    def __init__(
        self,
        loop: Loop,
        groups: Groups,
        logs: Path,
        state_of: Callable[[str], tuple[ServerState, str]],
        wake: Callable[[str], None],
    ) -> None:
        self._loop, self._logs, self._state_of, self._wake = loop, logs, state_of, wake
        self._group = groups.group("front")
        self.state, self.reason = ServerState.STOPPED, ""
        self.handle: Handle | None = None
        self.sockets: list[socket.socket] = []
        self.port = 0
        self._behind: Behind | None = None
        self._spec: FrontPageSpec | None = None
        self._output: CappedLog | None = None
        self._link: socket.socket | None = None
        self._received, self._unsent = b"", b""
        self._stopping: list[Callable[[], None]] | None = None
        self._timer: Timer | None = None
        self._restarted_at = float("-inf")
        self.last_lines: tuple[str, ...] = ()
        self._deadlines: Sequence[tuple[str, int]] = ()
        self._own_of: Callable[[str], Sequence[tuple[str, int]]] = lambda _username: ()

    @property
    def is_closed(self) -> bool:
        """Whether no front page accepts connections, also while a restart is pending."""
        return self.handle is None and self._stopping is None

    def bind(self, port: int, addresses: Sequence[str], behind: Behind | None = None) -> list[str]:
        """Hold the front page's port, or its socket behind the proxy; notes for the teacher. HostError when somebody
        else has it.
        """
        if self.sockets and self.port == port and self._behind == behind:
            return []
        if self.handle is not None:
            raise HostError(f"the front page still runs on port {self.port}", "Stop it first: nblauncher shutdown")
        if behind is None:
            sockets, notes = ports.open_port(port, addresses)
        else:
            sockets, notes = ports.open_socket(behind.folder / "front.sock", behind.gid), []
        self._close_sockets()
        self.sockets, self.port, self._behind = sockets, port, behind
        return notes

    def start(self, spec: FrontPageSpec, tickets: socket.socket, memory_files: Sequence[int]) -> None:
        """Start it as its account; `memory_files` are config and, with TLS, certificate and key, sealed."""
        if self.handle is not None or self._stopping is not None:
            raise HostError("the front page still runs", "Stop it first.")
        if not self.sockets or self.port != spec.port:
            raise HostError(f"port {spec.port} is not bound")
        ours, theirs = socket.socketpair()
        self._group.create()
        try:
            keep = [one.fileno() for one in (*self.sockets, theirs, tickets)] + list(memory_files)
            argv = self._argv(theirs, tickets, memory_files)
            child = Child(
                spec.account, argv, _ENVIRONMENT, tuple(keep), Path("/"), Sandbox(self._group, score=limits.OURS)
            )
            self.handle, output = fork_exec(child)
        except HostError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._spec, self.state, self.reason, self.last_lines = spec, ServerState.STARTING, "", ()
        self._output = CappedLog(self._loop, output, self._logs / "_front-page.log")
        ours.setblocking(False)
        self._link, self._received, self._unsent = ours, b"", b""
        self._loop.watch(ours.fileno(), self._listen)
        log.info("started the front page on port %d, pid %d", self.port, self.handle.pid)

    def stop(self, done: Callable[[], None]) -> None:
        """SIGTERM, after GRACE seconds SIGKILL to its whole group, then `done`."""
        if self._stopping is not None:
            self._stopping.append(done)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = [done]
        if self.handle is None:
            self._sweep()
            return
        self._signal(signal.SIGTERM)
        self._timer = self._loop.later(GRACE, self._sweep)

    def tell_deadlines(
        self, deadlines: Sequence[tuple[str, int]], own_of: Callable[[str], Sequence[tuple[str, int]]]
    ) -> None:
        """What the front page tells students; folder and Unix seconds. `own_of` a student only when that one asks."""
        self._deadlines, self._own_of = deadlines, own_of
        if self.state is ServerState.READY:
            self._say({"deadlines": [list(one) for one in deadlines]})

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended: whether it was the front page."""
        if self.handle is None or self.handle.pid != pid:
            return False
        log.info("the front page, pid %d, ended: %s", pid, exit_words(status))
        self.handle = None
        self._hang_up()
        if self._output is not None:
            self._output.close()
            self.last_lines, self._output = self._output.last_lines(), None
        if self._stopping is not None:
            self._sweep()
            return True
        self.state, self.reason = ServerState.FAILED, exit_words(status)
        self._start_again()
        return True

    def close(self) -> None:
        self._hang_up()
        self._close_sockets()

    def report(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "reason": self.reason,
            "port": self.port,
            "pid": self.handle.pid if self.handle else None,
            "start_time": self.handle.start_time if self.handle else None,
            "last_lines": list(self.last_lines),
        }

    def _argv(self, link: socket.socket, tickets: socket.socket, memory_files: Sequence[int]) -> tuple[str, ...]:
        listening = ",".join(str(one.fileno()) for one in self.sockets)
        argv = [sys.executable, "-I", "-m", "nblauncher.web", "--listen", listening, "--config", str(memory_files[0])]
        if len(memory_files) == 3:
            argv += ["--tls-certificate", str(memory_files[1]), "--tls-key", str(memory_files[2])]
        return (*argv, "--supervisor", str(link.fileno()), "--tickets", str(tickets.fileno()))

    def _start_again(self) -> None:
        """Have it started again by a short-lived command that may read the secrets; we never do."""
        if self._spec is None or not self._spec.restart_argv:
            return
        pause = max(0.0, self._restarted_at + RESTART_PAUSE - time.monotonic())
        self._timer = self._loop.later(pause, self._run_restart)

    def _run_restart(self) -> None:
        if self._spec is None or self.handle is not None or self._stopping is not None:
            return
        self._restarted_at = time.monotonic()
        try:
            # How it fares shows in whether a front page starts.
            processes.begin(self._spec.restart_argv)
        except OSError as error:
            log.error("the front page cannot be started again: %s", error)

    def _sweep(self) -> None:
        if self._stopping is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self.handle is not None or not self._group.is_empty():
            if self._group.kind is Kind.NONE:
                self._signal(signal.SIGKILL)
            self._group.kill()
            self._timer = self._loop.later(_SWEEP_PAUSE, self._sweep)
            return
        calls, self._stopping = self._stopping, None
        self.state, self.reason = ServerState.STOPPED, ""
        self._group.remove()
        for call in calls:
            call()

    def _signal(self, number: signal.Signals) -> None:
        """Our own child, not reaped yet: the pid is still its."""
        if self.handle is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.handle.pid, number)

    def _listen(self) -> None:
        """Read what the front page says. It is not trusted: short lines, or the line is closed."""
        if self._link is None:
            return
        self._flush()
        try:
            part = self._link.recv(_MAX_LINE) if self._link is not None else b""
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._received += part
        if not part or (len(self._received) > _MAX_LINE and b"\n" not in self._received):
            self._hang_up()
            return
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            self._heard(line)

    def _heard(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            if said.get("ready") is True:
                self.state = ServerState.READY
                log.info("the front page answers")
                self.tell_deadlines(self._deadlines, self._own_of)
            elif said["ask"] in ("state", "wake") and type(said["id"]) is int:
                if said["ask"] == "wake":
                    self._wake(str(said["username"]))
                state, reason = self._state_of(str(said["username"]))
                own = [list(one) for one in self._own_of(str(said["username"]))]
                self._say({"id": said["id"], "state": state.value, "reason": reason, "own": own})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("the front page said something that is no question")

    def _say(self, message: dict[str, Any]) -> None:
        self._unsent += json.dumps(message).encode("ascii") + b"\n"
        self._flush()

    def _flush(self) -> None:
        if self._link is None:
            return
        try:
            self._unsent = self._unsent[self._link.send(self._unsent) :] if self._unsent else b""
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return
        if len(self._unsent) > _MAX_UNSENT:
            self._hang_up()
            return
        self._loop.watch(self._link.fileno(), self._listen, 1 | (WRITE if self._unsent else 0))

    def _hang_up(self) -> None:
        if self._link is not None:
            self._loop.forget(self._link.fileno())
            self._link.close()
            self._link = None

    def _close_sockets(self) -> None:
        for one in self.sockets:
            one.close()
        self.sockets = []
