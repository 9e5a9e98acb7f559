"""The porter, as the supervisor runs it: a process that answers on the ports of stopped servers and closed front pages.

The supervisor itself never accepts a connection on these ports, and a student's process must not answer for another
student or for the front page. The porter is started with the first port that no process serves, and then stays until
the class ends; a class in which everything runs needs none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Groups
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec
from nblauncher.model import Handle
from nblauncher.supervisor import ports
from nblauncher.supervisor.capped_log import CappedLog
from nblauncher.supervisor.loop import WRITE, Loop, Timer
from nblauncher.supervisor.specs import FrontPageSpec
from nblauncher.system import processes
from nblauncher.system.wire import close_all

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds that a port must be closed before a porter is started: `launch` is often done with it by then."""

RESTART_PAUSE = 10.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class Porter:
    """One per course. `keep` is called after every change with the ports that are closed."""

    def __init__(self, loop: Loop, groups: Groups, logs: Path, appearance: Path) -> None:
        """`appearance` is the file with the class's title and language, which the porter reads."""
        self._loop, self._logs, self._appearance = loop, logs, appearance
        self._group = groups.group("porter")
        self._spec: FrontPageSpec | None = None
        self._tls: tuple[int, ...] = ()
        self._handle: Handle | None = None
        self._output: CappedLog | None = None
        self._link: socket.socket | None = None
        self._timer: Timer | None = None
        self._closed: Mapping[int, Sequence[socket.socket]] = {}
        self._sent: dict[int, list[socket.socket]] = {}
        self._unsent: deque[tuple[bytes, list[socket.socket]]] = deque()
        self._over: Callable[[], None] | None = None

    def employ(self, spec: FrontPageSpec, memory_files: Sequence[int]) -> None:
        """Run it as the front page's account and with its certificate, but without its other secrets. A porter that
        is running is replaced.
        """
        close_all(self._tls)
        self._spec, self._tls = spec, tuple(map(os.dup, memory_files[1:]))
        self._kill()

    def keep(self, closed: Mapping[int, Sequence[socket.socket]]) -> None:
        """Have the porter answer these ports and no others. Cheap when nothing has changed."""
        self._closed = closed
        if self._over is not None or self._spec is None:
            return
        if self._handle is None:
            if closed and self._timer is None:
                self._timer = self._loop.later(PATIENCE, self._start)
            return
        for port in [port for port, sent in self._sent.items() if list(closed.get(port, ())) != sent]:
            del self._sent[port]
            self._send(port, [])
        for port in closed.keys() - self._sent.keys():
            self._sent[port] = list(closed[port])
            self._send(port, self._sent[port])

    def child_ended(self, pid: int, status: int) -> bool:
        """A child of ours ended. Returns whether it was the porter."""
        if self._handle is None or self._handle.pid != pid:
            return False
        log.info("the porter, pid %d, ended: %s", pid, processes.exit_words(status))
        self._handle = None
        self._hang_up()
        if self._output is not None:
            self._output.close()
            self._output = None
        self._group.remove()
        if self._over is not None:
            self._over()
        elif not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            self._timer = self._loop.later(RESTART_PAUSE, self._start)
        return True

    def stop(self, done: Callable[[], None]) -> None:
        """Kill it, as it has no state to lose, then call `done`."""
        self._over = done
        if self._timer is not None:
            self._timer.cancel()
        if self._handle is None:
            done()
        else:
            self._kill()

    def close(self) -> None:
        self._hang_up()
        close_all(self._tls)
        self._tls = ()

    def _start(self) -> None:
        self._timer = None
        if self._spec is None or self._handle is not None or self._over is not None or not self._closed:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-I", "-m", "nblauncher.web.porter", "--link", str(theirs.fileno())]
        argv += ["--front-port", str(self._spec.port), "--appearance", str(self._appearance)]
        if self._tls:
            argv += ["--tls-certificate", str(self._tls[0]), "--tls-key", str(self._tls[1])]
        keep = (theirs.fileno(), *self._tls)
        try:
            self._group.create()
            sandbox = Sandbox(self._group, score=limits.OURS)
            child = Child(self._spec.account, tuple(argv), _ENVIRONMENT, keep, Path("/"), sandbox)
            self._handle, output = fork_exec(child)
        except HostError as error:
            ours.close()
            log.error("cannot start the porter, which answers where servers do not run: %s", error.problem)
            self._timer = self._loop.later(RESTART_PAUSE, self._start)
            return
        finally:
            theirs.close()
        self._output = CappedLog(self._loop, output, self._logs / "_porter.log")
        ours.setblocking(False)
        self._link = ours
        log.info("started the porter, pid %d", self._handle.pid)
        self.keep(self._closed)

    def _kill(self) -> None:
        """Safe by pid: it is our child and has not been reaped."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._handle.pid, signal.SIGKILL)

    def _send(self, port: int, sockets: list[socket.socket]) -> None:
        try:
            ports.listen_again(sockets)
        except HostError as error:
            log.error("%s", error.problem)
            return
        is_front_page = self._spec is not None and port == self._spec.port
        message = {"port": port, "is_closed": bool(sockets), "is_front_page": is_front_page}
        self._unsent.append((json.dumps(message).encode("ascii"), sockets))
        self._flush()

    def _flush(self) -> None:
        while self._link is not None and self._unsent:
            packet, sockets = self._unsent[0]
            numbers = [listening.fileno() for listening in sockets if listening.fileno() >= 0]
            try:
                if numbers:
                    socket.send_fds(self._link, [packet], numbers)
                elif not sockets:
                    self._link.send(packet)
            except BlockingIOError:
                break
            except OSError:
                self._hang_up()  # it has died, and child_ended starts another one
                return
            self._unsent.popleft()
        if self._link is not None:
            if self._unsent:
                self._loop.watch(self._link.fileno(), self._flush, WRITE)
            else:
                self._loop.forget(self._link.fileno())

    def _hang_up(self) -> None:
        self._sent.clear()
        self._unsent.clear()
        if self._link is not None:
            self._loop.forget(self._link.fileno())
            self._link.close()
            self._link = None
