"""The spawner `forkserver`: servers are forked from a process that has loaded everything that a server needs.

Whatever is wrong with that process, nobody waits for it for long: `process` starts the server then.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nblauncher import fork_requests, processes
from nblauncher.cgroups import Group
from nblauncher.children import NOWHERE, Child, fork_exec
from nblauncher.errors import HostError
from nblauncher.fork_requests import Request
from nblauncher.model import Handle
from nblauncher.spawners.process import ProcessSpawner
from nblauncher.spawners.protocol import Answer, EventLoop, Order, Started, Timer
from nblauncher.wire import WireError, close_all

log = logging.getLogger(__name__)

LOADING = 20.0
"""Seconds that a fork server may take until it has loaded everything."""

ANSWERING = 10.0
"""Seconds that it may take to fork."""

ENDING = 2.0
"""Seconds that one that was killed may take to be gone."""

_PAUSES = (1.0, 5.0, 30.0, 300.0)
"""Seconds until one that died is started again: the first time, the second, ... the last from then on."""


@dataclass
class _Pending:
    """A server that is asked for. The order's descriptors are our own duplicates."""

    order: Order
    answer: Answer
    deadline: Timer
    output: int = -1


class ForkServerSpawner:
    """`language` is the fork server's LANG. `keep_output` takes the descriptor that the fork server's log comes out of.

    `found` is the file, root's, in which a fork server notes for the next one what a server loads.
    """

    def __init__(
        self,
        loop: EventLoop,
        group: Group,
        language: str,
        found: Path,
        keep_output: Callable[[int], None],
    ) -> None:
        self._loop, self._group, self._language, self._keep_output = loop, group, language, keep_output
        self._found = found
        self._ordinary = ProcessSpawner()
        self._link: socket.socket | None = None
        self._handle: Handle | None = None
        self._is_ready = False
        self._is_due = False
        """It begins with the first server."""
        self._deaths = 0
        self._timer: Timer | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Pending] = {}
        self._asked: dict[int, _Pending] = {}
        self.reason = "it was not started yet"
        """Why there is no fork server; empty while there is one."""

    @property
    def pid(self) -> int | None:
        return self._handle.pid if self._handle else None

    def prepare(self, *, at_first_use: bool = False) -> None:
        """Begin with a fresh fork server. Servers that run are not its children, and notice nothing."""
        self._deaths = 0
        self._end()
        self._is_due = at_first_use
        if not at_first_use:
            self._begin()

    def start(self, order: Order, answer: Answer) -> None:
        if self._is_due:
            self._is_due = False
            self._begin()
        if self._link is None:
            log.warning("%s's server is started without a fork server: %s", order.account.username, self.reason)
            self._ordinary.start(order, answer)
            return
        number = next(self._numbers)
        patience = ANSWERING if self._is_ready else LOADING
        deadline = self._loop.later(patience, lambda: self._give_up(f"it did not answer in {patience:.0f} s"))
        self._waiting[number] = _Pending(_duplicated(order), answer, deadline)
        if self._is_ready:
            self._ask_all()

    def poll(self, handle: Handle) -> bool:
        return self._ordinary.poll(handle)

    def stop(self, handle: Handle) -> None:
        self._ordinary.stop(handle)

    def child_ended(self, pid: int) -> bool:
        """A child of ours ended: whether it was the fork server."""
        if pid != self.pid:
            return False
        self._handle = None
        self._give_up("it ended")
        return True

    def close(self) -> None:
        """End the fork server for good. Waits until it is gone: its control group cannot be removed before."""
        pidfd = None if self._handle is None else processes.open_handle(self._handle)
        self._end()
        if pidfd is not None:
            processes.wait_for_end(pidfd, ENDING)
            os.close(pidfd)

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = "nblauncher.forkserver.servers"
        argv = (sys.executable, "-I", "-m", module, str(theirs.fileno()), str(self._found))
        # With no PATH nothing that is imported finds a program to run as root; jupyterlab would run node.
        environment = {"LANG": self._language, "HOME": str(NOWHERE), "PATH": str(NOWHERE)}
        try:
            self._group.create()
            self._handle, output = fork_exec(
                Child(None, argv, environment, (theirs.fileno(),), NOWHERE.parent, self._group)
            )
        except HostError as error:
            ours.close()
            self._died(error.problem)
            return
        finally:
            theirs.close()
        self._keep_output(output)
        ours.setblocking(False)
        self._link, self._is_ready, self.reason = ours, False, ""
        self._loop.watch(ours.fileno(), self._read)
        log.info("started the fork server, pid %d", self._handle.pid)

    def _read(self) -> None:
        while self._link is not None:
            try:
                packet = fork_requests.receive(self._link)
            except BlockingIOError:
                return
            except (OSError, WireError) as error:
                self._give_up(f"it cannot be understood: {error}")
                return
            if packet is None:
                self._give_up("it hung up")
                return
            close_all(packet[1])
            self._heard(packet[0])

    def _heard(self, message: Mapping[str, Any]) -> None:
        if "refused" in message:
            self._deaths = len(_PAUSES)  # nothing gets better by trying at once
            self._give_up(f"it refuses to import: {'; '.join(map(str, message['refused'][:3]))}")
        elif "ready" in message:
            self._is_ready = True
            log.info("the fork server is ready")
            self._ask_all()
        else:
            self._answered(message)

    def _answered(self, message: Mapping[str, Any]) -> None:
        pending = self._asked.pop(message.get("id", 0), None)
        if pending is not None:
            pending.deadline.cancel()
            if "pid" in message:
                self._deaths = 0
                self._forked(int(message["pid"]), pending)
            else:
                self._start_ordinarily(pending, str(message.get("problem")))

    def _ask_all(self) -> None:
        for number in list(self._waiting):
            if self._link is None or not self._is_ready:
                return
            pending = self._waiting[number]
            order = pending.order
            tls = [one for one in (order.certificate, order.key) if one is not None]
            output, output_end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(output, False)
            request = Request(number, order.account, order.environment, order.group, has_tls=bool(tls))
            try:
                fork_requests.ask(self._link, request, [output_end, order.config, *tls, order.news, *order.listening])
            except BlockingIOError:
                os.close(output)
                return  # its answer to an earlier one brings us here again
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
            self._asked[number] = pending

    def _forked(self, pid: int, pending: _Pending) -> None:
        _close(pending.order)
        # Nobody but us waits for it, so until we have it keeps its number.
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

    def _give_up(self, why: str) -> None:
        """This fork server is no use: end it, serve those who wait, and try a new one later."""
        self._end(why)
        self._died(why)

    def _died(self, why: str) -> None:
        self.reason = why
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
        log.error("the fork server: %s; a new one in %.0f s", why, pause)
        self._timer = self._loop.later(pause, self._begin)

    def _end(self, why: str = "it was ended") -> None:
        """What it was asked and had not answered never comes to life: a forked server waits until its answer was sent,
        and from the shutdown on none can be.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_ready, self.reason = False, why
        link, self._link = self._link, None
        if link is not None:
            self._loop.forget(link.fileno())
            link.shutdown(socket.SHUT_RD)
            self._drain(link)
            link.close()
        if self._handle is not None:
            processes.send_signal(self._handle, signal.SIGKILL)
            self._handle = None
        orphaned = [*self._asked.values(), *self._waiting.values()]
        self._asked, self._waiting = {}, {}
        for pending in orphaned:
            pending.deadline.cancel()
            self._start_ordinarily(pending, why)

    def _drain(self, link: socket.socket) -> None:
        """Take the answers that were sent already."""
        while True:
            try:
                packet = fork_requests.receive(link)
            except (OSError, WireError):
                return
            if packet is None:
                return
            close_all(packet[1])
            self._answered(packet[0])


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
    close_all([one for one in given if one is not None])
