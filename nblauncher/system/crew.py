"""Workers that answer one call after the other, instead of one forked process for each.

A fork copies its parent's page tables, and then a page for each first write. Where many short calls trust each other,
that takes longer than the calls.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.model import Account
from nblauncher.system import processes, workers


class Crew:
    """At most as many processes as there are calls at a time; `dismiss` must be called. `function(call)` returns what
    is JSON-able. A process that ends takes its own call with it only: the next call starts another.
    """

    def __init__(self, account: Account, function: Callable[[Any], Any], *, keep: Collection[int] = ()) -> None:
        self._account, self._function, self._keep = account, function, frozenset(keep)
        self._idle: list[_Member] = []

    def call(self, call: Any) -> Call:
        """Begin one. HostError when the host has no room for another process."""
        member = self._idle.pop() if self._idle else self._hired()
        try:
            workers.write_frame(member.link.fileno(), {"call": call})
        except OSError:  # it ended while it was idle
            member.dismiss()
            member = self._hired()
            workers.write_frame(member.link.fileno(), {"call": call})
        return Call(member, self._idle.append)

    def dismiss(self) -> None:
        """End those that have nothing to do; a running call is stopped by itself."""
        while self._idle:
            self._idle.pop().dismiss()

    def _hired(self) -> _Member:
        ours, theirs = socket.socketpair()
        try:
            keep = self._keep | {theirs.fileno()}
            worker = workers.start(self._account, _answer_calls, theirs.fileno(), self._function, keep=keep)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Member(worker, ours)


@dataclass(frozen=True, slots=True)
class _Member:
    worker: workers.Worker
    link: socket.socket

    def dismiss(self) -> int:
        """Its wait status."""
        self.link.close()
        return self.worker.stop()


@dataclass(frozen=True, slots=True)
class Call:
    """One that runs: `result` or `stop` must be called, as with a Worker."""

    member: _Member
    is_free: Callable[[_Member], None]

    def fileno(self) -> int:
        """Readable when there is an answer, or its process has ended."""
        return self.member.link.fileno()

    def result(self, timeout: float) -> Any:
        """As Worker.result."""
        account = self.member.worker.account
        try:
            frame = workers.read_frame(self.member.link.fileno(), timeout)
        except TimeoutError as error:
            self.stop()
            raise HostError(
                f"a worker of {account.username} was not done after {timeout:.0f} s and was ended"
            ) from error
        except BaseException:
            self.stop()
            raise
        if frame is None:
            words = processes.exit_words(self.stop())
            raise HostError(f"a worker of {account.username} ended without an answer ({words})")
        self.is_free(self.member)
        return workers.value_of(frame.header, account)

    def stop(self) -> int:
        """Kill the process that carries it out."""
        return self.member.dismiss()


def _answer_calls(link: int, function: Callable[[Any], Any]) -> None:
    """In the forked process, until the other end is closed."""
    gc.freeze()
    gc.enable()
    while (frame := workers.read_frame(link)) is not None:
        call = frame.header["call"]
        workers.write_frame(link, workers.answer_of(lambda call=call: function(call)))  # type: ignore[misc]
    os.close(link)
