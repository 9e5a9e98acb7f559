"""The spawner `forkserver`: servers are forked from a process that has loaded everything that a server needs.

If anything is wrong with that process, `process` starts the server instead: no student waits for it for long.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver.requests import Place, Request
from nblauncher.isolation.cgroups import Group
from nblauncher.isolation.spawn import NOWHERE
from nblauncher.model import ServerHandle
from nblauncher.supervisor.spawners.fork_server import ForkServer, Program
from nblauncher.supervisor.spawners.process import ProcessSpawner
from nblauncher.supervisor.spawners.protocol import Answer, EventLoop, Order, Started, Timer
from nblauncher.system import processes
from nblauncher.system.wire import close_all

log = logging.getLogger(__name__)

LOADING = 20.0
"""Seconds that a fork server may take until it has loaded everything."""

ANSWERING = 10.0
"""Seconds that it may take to fork."""


@dataclass
class _Pending:
    """A server that was requested. The order's descriptors are our own duplicates."""

    order: Order
    answer: Answer
    deadline: Timer
    output: int = -1


class ForkServerSpawner:
    """`language` is the fork server's LANG. `keep_output` gets the descriptor from which its log is read.

    `found` is the file, owned by root, in which a fork server notes for the next one what a server loads.
    """

    is_remote = False

    def __init__(
        self,
        loop: EventLoop,
        group: Group,
        language: str,
        found: Path,
        keep_output: Callable[[int], None],
    ) -> None:
        argv = (sys.executable, "-I", "-m", "nblauncher.forkserver.servers", str(found))
        # With no PATH nothing that is imported finds a program to run as root; jupyterlab would run node.
        program = Program(argv, {"LANG": language, "HOME": str(NOWHERE), "PATH": str(NOWHERE)})
        self._loop = loop
        self._fork_server = ForkServer(loop, group, "the fork server", lambda: program, self, keep_output)
        self._ordinary = ProcessSpawner()
        self._is_due = False
        """It starts with the first server."""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Pending] = {}
        self._requested: dict[int, _Pending] = {}

    @property
    def pid(self) -> int | None:
        return self._fork_server.pid

    def prepare(self, *, at_first_use: bool = False) -> None:
        """Start a fresh fork server. Running servers are not children of the old one and are not affected."""
        self._fork_server.end()
        self._is_due = at_first_use
        if not at_first_use:
            self._fork_server.begin()

    def start(self, order: Order, answer: Answer) -> None:
        if self._is_due:
            self._is_due = False
            self._fork_server.begin()
        if not self._fork_server.is_there:
            why = self._fork_server.reason
            log.warning("%s's server is started without a fork server: %s", order.account.username, why)
            self._ordinary.start(order, answer)
            return
        number = next(self._numbers)
        patience = ANSWERING if self._fork_server.is_ready else LOADING
        deadline = self._loop.later(
            patience, lambda: self._fork_server.give_up(f"it did not answer in {patience:.0f} s")
        )
        self._waiting[number] = _Pending(_duplicated(order), answer, deadline)
        if self._fork_server.is_ready:
            self._ask_all()

    def poll(self, handle: ServerHandle) -> bool:
        return self._ordinary.poll(handle)

    def stop(self, handle: ServerHandle) -> None:
        self._ordinary.stop(handle)

    def kill(self, handle: ServerHandle) -> None:
        self._ordinary.kill(handle)

    def child_ended(self, pid: int) -> bool:
        """A child of ours ended. Returns whether it was the fork server."""
        return self._fork_server.child_ended(pid)

    def close(self) -> None:
        self._fork_server.close()

    def ready(self, message: Mapping[str, Any]) -> None:
        self._ask_all()

    def answered(self, message: Mapping[str, Any]) -> None:
        pending = self._requested.pop(message.get("id", 0), None)
        if pending is not None:
            pending.deadline.cancel()
            if "pid" in message:
                self._fork_server.forked()
                self._forked(int(message["pid"]), pending)
            else:
                self._start_ordinarily(pending, str(message.get("problem")))

    def ended(self, why: str) -> None:
        """Start all pending servers otherwise. A forked server goes on only once its answer was sent, so none did."""
        orphaned = [*self._requested.values(), *self._waiting.values()]
        self._requested, self._waiting = {}, {}
        for pending in orphaned:
            pending.deadline.cancel()
            self._start_ordinarily(pending, why)

    def _ask_all(self) -> None:
        for number in list(self._waiting):
            if not self._fork_server.is_ready:
                return
            pending = self._waiting[number]
            order = pending.order
            tls = [file for file in (order.certificate, order.key) if file is not None]
            output, output_end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(output, False)
            request = Request(number, Place(order.account, order.sandbox), order.environment, has_tls=bool(tls))
            descriptors = [output_end, order.config, *tls, order.news, *order.listening]
            try:
                self._fork_server.ask(request.pack(len(descriptors)), descriptors)
            except BlockingIOError:
                os.close(output)
                return  # tried again when it answers an earlier request
            except (OSError, ValueError) as error:
                os.close(output)
                del self._waiting[number]
                pending.deadline.cancel()
                self._start_ordinarily(pending, f"it cannot be asked: {error}")
                continue
            finally:
                os.close(output_end)
            del self._waiting[number]
            pending.output = output
            self._requested[number] = pending

    def _forked(self, pid: int, pending: _Pending) -> None:
        _close(pending.order)
        # Only we reap it, so until then the pid stays its own.
        handle = processes.identify(pid)
        if handle is None:
            os.close(pending.output)
            pending.answer(HostError(f"process {pid} is not in /proc"))
        else:
            pending.answer(Started(handle, pending.output))
        self._ask_all()

    def _start_ordinarily(self, pending: _Pending, why: str) -> None:
        log.warning("%s's server is started without the fork server: %s", pending.order.account.username, why)
        if pending.output >= 0:
            os.close(pending.output)
        self._ordinary.start(pending.order, pending.answer)
        _close(pending.order)


def _duplicated(order: Order) -> Order:
    return replace(
        order,
        listening=tuple(map(os.dup, order.listening)),
        config=os.dup(order.config),
        news=os.dup(order.news),
        certificate=None if order.certificate is None else os.dup(order.certificate),
        key=None if order.key is None else os.dup(order.key),
    )


def _close(order: Order) -> None:
    given = (*order.listening, order.config, order.certificate, order.key, order.news)
    close_all([descriptor for descriptor in given if descriptor is not None])
