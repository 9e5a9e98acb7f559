"""A fork server, as the supervisor runs it: started, asked, ended, and restarted after a pause when it died."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nblauncher.errors import HostError
from nblauncher.forkserver import requests
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Group
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import NOWHERE, Child, fork_exec
from nblauncher.model import Handle
from nblauncher.supervisor.spawners.protocol import EventLoop, Timer
from nblauncher.system import processes
from nblauncher.system.wire import WireError, close_all

log = logging.getLogger(__name__)

ENDING = 2.0
"""Seconds that a killed fork server may take to be gone."""

_PAUSE = 0.02
_PAUSES = (1.0, 5.0, 30.0, 300.0)
"""Seconds until a fork server that died is restarted: the first time, the second, ... the last from then on."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a fork server runs. The number of its socket to us is appended to `argv`."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    keep: tuple[socket.socket, ...] = ()
    """Sockets that it inherits under the same numbers. Our copies are closed."""


class Owner(Protocol):
    """The spawner that asks the fork server."""

    def ready(self, message: Mapping[str, Any]) -> None:
        """It has loaded everything."""
        ...

    def answered(self, message: Mapping[str, Any]) -> None: ...

    def ended(self, why: str) -> None:
        """It is gone or useless. What it had not answered will never be forked."""
        ...


class ForkServer:
    """`name` is for the log; `program` is called at each start (HostError: tried again later); `keep_output` gets the
    descriptor from which its log is read.
    """

    def __init__(
        self,
        loop: EventLoop,
        group: Group,
        name: str,
        program: Callable[[], Program],
        owner: Owner,
        keep_output: Callable[[int], None],
    ) -> None:
        self._loop, self._group, self._name, self._program = loop, group, name, program
        self._owner, self._keep_output = owner, keep_output
        self._link: socket.socket | None = None
        self._handle: Handle | None = None
        self._deaths = 0
        self._timer: Timer | None = None
        self.is_ready = False
        self.reason = "it was not started yet"
        """Why there is none; empty while there is one."""

    @property
    def pid(self) -> int | None:
        return self._handle.pid if self._handle else None

    @property
    def is_there(self) -> bool:
        """Whether there is one, which can be asked as soon as it is ready."""
        return self._link is not None

    def begin(self) -> None:
        """Start it. If the host refuses, it is tried again later."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keep = [theirs]
        try:
            program = self._program()
            keep += program.keep
            self._group.create()
            argv, numbers = (*program.argv, str(theirs.fileno())), tuple(kept.fileno() for kept in keep)
            self._handle, output = fork_exec(
                Child(None, argv, program.environment, numbers, NOWHERE.parent, Sandbox(self._group, score=limits.OURS))
            )
        except HostError as error:
            ours.close()
            self._died(error.problem)
            return
        finally:
            for kept in keep:
                kept.close()
        self._keep_output(output)
        ours.setblocking(False)
        self._link, self.is_ready, self.reason = ours, False, ""
        self._loop.watch(ours.fileno(), self._read)
        log.info("started %s, pid %d", self._name, self._handle.pid)

    def ask(self, data: bytes, descriptors: list[int]) -> None:
        """Does not block. BlockingIOError while it does not read, BrokenPipeError when it is gone."""
        if self._link is None:
            raise BrokenPipeError(f"{self._name} is not there")
        socket.send_fds(self._link, [data], descriptors)

    def forked(self) -> None:
        """It has forked something: the next death counts as the first."""
        self._deaths = 0

    def give_up(self, why: str) -> None:
        """End this one, which is useless, and try a new one later."""
        self._end(why)
        self._died(why)

    def end(self, why: str = "it was ended") -> None:
        """End it until `begin` starts a fresh one."""
        self._deaths = 0
        self._end(why)

    def child_ended(self, pid: int) -> bool:
        """A child of ours ended. Returns whether it was this one."""
        if pid != self.pid:
            return False
        self._handle = None
        self.give_up("it ended")
        return True

    def close(self) -> None:
        """End it for good, with its warm-up. Waits until it is gone: only then can its control group be removed."""
        pidfd = None if self._handle is None else processes.open_handle(self._handle)
        self._end("it was ended")
        if pidfd is not None:
            processes.wait_for_end(pidfd, ENDING)
            os.close(pidfd)
        deadline = time.monotonic() + ENDING
        while not self._group.is_empty() and time.monotonic() < deadline:
            self._group.kill()
            time.sleep(_PAUSE)

    def _read(self) -> None:
        while self._link is not None:
            try:
                packet = requests.receive(self._link)
            except BlockingIOError:
                return
            except (OSError, WireError) as error:
                self.give_up(f"it cannot be understood: {error}")
                return
            if packet is None:
                self.give_up("it hung up")
                return
            close_all(packet[1])
            self._handle_message(packet[0])

    def _handle_message(self, message: Mapping[str, Any]) -> None:
        if "refused" in message:
            self._deaths = len(_PAUSES)  # trying again at once would not help
            self.give_up(f"it refuses to import: {'; '.join(map(str, message['refused'][:3]))}")
        elif "ready" in message:
            self.is_ready = True
            log.info("%s is ready", self._name)
            self._owner.ready(message)
        else:
            self._owner.answered(message)

    def _died(self, why: str) -> None:
        self.reason = why
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
        log.error("%s: %s; trying a new one in %.0f s", self._name, why, pause)
        self._timer = self._loop.later(pause, self.begin)

    def _end(self, why: str) -> None:
        """After the shutdown of its socket it cannot answer any more; what it sent before is still read."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_ready, self.reason = False, why
        link, self._link = self._link, None
        if link is not None:
            self._loop.forget(link.fileno())
            link.shutdown(socket.SHUT_RD)
            self._drain(link)
            link.close()
        if self._handle is not None:
            processes.send_signal(self._handle, signal.SIGKILL)
            self._handle = None
        self._owner.ended(why)

    def _drain(self, link: socket.socket) -> None:
        while True:
            try:
                packet = requests.receive(link)
            except (OSError, WireError):
                return
            if packet is None:
                return
            close_all(packet[1])
            self._owner.answered(packet[0])
