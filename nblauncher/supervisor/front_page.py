"""The front page's process, as the supervisor runs it: started, read from, stopped, restarted when it dies."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Groups, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec
from nblauncher.model import Handle, ServerState
from nblauncher.printable import printable
from nblauncher.supervisor import ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.front_renewals import Renewals
from nblauncher.supervisor.loop import WRITE, Loop, Timer
from nblauncher.supervisor.notices import Board
from nblauncher.supervisor.seat import Behind
from nblauncher.supervisor.specs import FrontPageSpec
from nblauncher.system import processes

log = logging.getLogger(__name__)

GRACE = 5.0
RESTART_PAUSE = 10.0
"""Seconds between two attempts to start it again."""

_MAX_LINE = 4096
_MAX_UNSENT = 1 << 20
_LONGEST_CLIENT = 100
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_SWEEP_PAUSE = 0.05


class FrontPage:
    """One per course. `state_of(username)` answers its questions about students, with a reason; `wake` starts a
    sleeping server. `board` says what students are told, and admits the teacher's links; `queue_of` says where in the
    cluster's queue a student's job is.
    """

    def __init__(
        self,
        loop: Loop,
        groups: Groups,
        logs: Path,
        state_of: Callable[[str], tuple[ServerState, str]],
        wake: Callable[[str], None],
        board: Board,
        queue_of: Callable[[str], Mapping[str, Any] | None] = lambda _username: None,
    ) -> None:
        self._loop, self._logs, self._state_of, self._wake, self._board = loop, logs, state_of, wake, board
        self._queue_of = queue_of
        self._group = groups.group("front")
        self.state, self.reason = ServerState.STOPPED, ""
        self.handle: Handle | None = None
        self.sockets: list[socket.socket] = []
        self.port = 0
        self._behind: Behind | None = None
        self._spec: FrontPageSpec | None = None
        self._output: CappedLog | None = None
        self._link: socket.socket | None = None
        self._renewals = Renewals(loop)
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
        """Hold the front page's port, or its socket behind the proxy. Returns notes for the teacher. HostError when
        another process holds it.
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
        renewals = self._renewals.open()
        self._group.create()
        try:
            keep = [kept.fileno() for kept in (*self.sockets, theirs, renewals, tickets)] + list(memory_files)
            argv = (*self._argv(theirs, tickets, memory_files), "--renewals", str(renewals.fileno()))
            child = Child(
                spec.account, argv, _ENVIRONMENT, tuple(keep), Path("/"), Sandbox(self._group, score=limits.OURS)
            )
            self.handle, output = fork_exec(child)
        except HostError:
            ours.close()
            raise
        finally:
            theirs.close()
            renewals.close()
        self._spec, self.state, self.reason, self.last_lines = spec, ServerState.STARTING, "", ()
        self._output = CappedLog(self._loop, output, self._logs / "_front-page.log")
        ours.setblocking(False)
        self._link, self._received, self._unsent = ours, b"", b""
        self._loop.watch(ours.fileno(), self._listen)
        log.info("started the front page on port %d, pid %d", self.port, self.handle.pid)

    def renew(self, config: int, done: Callable[[bool], None]) -> None:
        """Pass a sealed config on to the running front page; `done` is told whether it took it over."""
        if self.state is ServerState.READY:
            self._renewals.send(config, done)
        else:
            done(False)

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
        """Set the deadlines that the front page shows (folder and Unix seconds), and those of single students."""
        self._deadlines, self._own_of = deadlines, own_of
        if self.state is ServerState.READY:
            self._send({"deadlines": [list(deadline) for deadline in deadlines]})

    def tell_message(self) -> None:
        """The class's message, which the front page shows to every visitor, may have changed."""
        if self.state is ServerState.READY:
            message = self._board.message
            self._send({"message": None if message is None else [message.text, message.until]})

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended. Returns whether it was the front page."""
        if self.handle is None or self.handle.pid != pid:
            return False
        log.info("the front page, pid %d, ended: %s", pid, processes.exit_words(status))
        self.handle = None
        self._hang_up()
        if self._output is not None:
            self._output.close()
            self.last_lines, self._output = self._output.last_lines(), None
        if self._stopping is not None:
            self._sweep()
            return True
        self.state, self.reason = ServerState.FAILED, processes.exit_words(status)
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
        numbers = ",".join(str(listening.fileno()) for listening in self.sockets)
        argv = [sys.executable, "-I", "-m", "nblauncher.web", "--listen", numbers, "--config", str(memory_files[0])]
        if len(memory_files) == 3:
            argv += ["--tls-certificate", str(memory_files[1]), "--tls-key", str(memory_files[2])]
        return (*argv, "--supervisor", str(link.fileno()), "--tickets", str(tickets.fileno()))

    def _start_again(self) -> None:
        """Run a short-lived command that starts it again: it may read the secrets, the supervisor never does."""
        if self._spec is None or not self._spec.restart_argv:
            return
        pause = max(0.0, self._restarted_at + RESTART_PAUSE - time.monotonic())
        self._timer = self._loop.later(pause, self._run_restart)

    def _run_restart(self) -> None:
        if self._spec is None or self.handle is not None or self._stopping is not None:
            return
        self._restarted_at = time.monotonic()
        try:
            # Whether it succeeds shows when a front page starts.
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
        """It is our child and has not been reaped: the pid cannot be another process's."""
        if self.handle is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.handle.pid, number)

    def _listen(self) -> None:
        """Read the front page's messages. It is not trusted: a line that is too long ends the connection."""
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
            self._handle_message(line)

    def _handle_message(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if message.get("ready") is True:
                self.state = ServerState.READY
                log.info("the front page answers")
                self.tell_deadlines(self._deadlines, self._own_of)
                self.tell_message()
            elif message["ask"] == "visit" and type(message["id"]) is int:
                self._admit(message["id"], str(message["digest"]), str(message["client"])[:_LONGEST_CLIENT])
            elif message["ask"] in ("state", "wake") and type(message["id"]) is int:
                username = str(message["username"])
                if message["ask"] == "wake":
                    self._wake(username)
                state, reason = self._state_of(username)
                own = [list(deadline) for deadline in self._own_of(username)]
                told = [[one.text, one.until] for one in self._board.told(username)]
                about = {"own": own, "told": told, "queue": self._queue_of(username)}
                self._send({"id": message["id"], "state": state.value, "reason": reason, **about})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("the front page sent a message that is not a question")

    def _admit(self, number: int, digest: str, client: str) -> None:
        """The teacher followed a link: answer whose server it opens, and under which name the visit goes."""
        try:
            found = self._board.admit(digest, printable(client))
        except OSError as error:
            log.error("the teacher's link does not work: %s", error)
            found = None
        username, visit = ("", "") if found is None else (found[0], found[1].name)
        state = ServerState.UNKNOWN if found is None else self._state_of(username)[0]
        self._send({"id": number, "state": state.value, "username": username, "visit": visit})

    def _send(self, message: dict[str, Any]) -> None:
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
        self._renewals.close()
        if self._link is not None:
            self._loop.forget(self._link.fileno())
            self._link.close()
            self._link = None

    def _close_sockets(self) -> None:
        for listening in self.sockets:
            listening.close()
        self.sockets = []
