"""A unix socket that every account of the host may connect to, served so that no client can delay it for others.

The server looks at the peer's uid (SO_PEERCRED, unix(7)) and forks; the child talks to the client. The server itself
neither reads what a client sends nor closes it: a message may carry a descriptor that takes minutes to close for the
last time (a TCP socket with SO_LINGER, socket(7); a file on a FUSE), and closing a connection closes what lies in it
unread. So a connection is closed here only while a child holds it too; a process that exits does not linger.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from nblauncher.system.descriptors import peer_uid
from nblauncher.system.wire import close_all

log = logging.getLogger(__name__)

_GO = b"g"
_MOST_REFUSED = 100
_PATIENCE = 0.5
_LOG_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """For each uid: children at the same time, requests at once, and requests a second from then on."""

    children: int
    burst: float
    per_second: float


class Handler(Protocol):
    """What is served."""

    def reject_reason(self, uid: int) -> str:
        """Why this uid is rejected; empty when it is served."""
        ...

    def rejection(self, reason: str) -> bytes:
        """What a rejected client is sent."""
        ...

    def on_start(self, uid: int, pid: int) -> None:
        """Called before the child does anything; if this raises OSError the child does nothing."""
        ...

    def run(self, uid: int, connection: socket.socket) -> NoReturn:
        """Serve the connection, in the child."""
        ...

    def on_exit(self, uid: int, pid: int, status: int) -> None: ...


@dataclass
class Budget:
    """How many requests a uid may still make; refills with time."""

    limits: Limits
    left: float = field(init=False)
    since: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.limits.burst

    def take(self, now: float) -> bool:
        self.left = min(self.limits.burst, self.left + self.limits.per_second * (now - self.since))
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class UnixServer:
    """Accepts connections and forks a child for each. For a process with one thread, which does nothing else."""

    def __init__(self, listener: socket.socket, handler: Handler, limits: Limits) -> None:
        self._listener, self._handler, self._limits = listener, handler, limits
        self._budgets: dict[int, Budget] = {}
        self._children: dict[int, int] = {}
        """pid → uid of the running ones."""
        self._refused: list[socket.socket] = []
        self._logged: dict[int, float] = {}
        self._closed_until = 0.0
        listener.setblocking(False)
        listener.set_inheritable(False)

    def serve(self, link: socket.socket, listen: Callable[[], bool]) -> None:
        """Serve until `listen` returns False. It is called whenever `link` may have something to read, and before a
        connection is accepted: messages from there come first.
        """
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while True:
            watched = [link.fileno(), woken]
            if time.monotonic() >= self._closed_until:
                watched.append(self._listener.fileno())
            ready, _, _ = select.select(watched, [], [], _PATIENCE if self._refused or len(watched) < 3 else None)
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if not listen():
                return
            if self._listener.fileno() in ready:
                self._admit()
            if self._refused and (not ready or len(self._refused) >= _MOST_REFUSED):
                self._let_go()

    def _admit(self) -> None:
        try:
            connection, _address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._pause(f"cannot accept a connection: {error.strerror}")
            return
        uid, now = peer_uid(connection), time.monotonic()
        if reason := self._handler.reject_reason(uid):
            self._refuse(connection, uid, reason)
        elif not self._budgets.setdefault(uid, Budget(self._limits)).take(now):
            self._refuse(connection, uid, "too many requests")
        elif Counter(self._children.values())[uid] >= self._limits.children:
            self._refuse(connection, uid, f"{self._limits.children} run already")
        else:
            self._fork(connection, uid)
        if len(self._budgets) > _MOST_REFUSED:
            # Forget the budgets that are full again.
            refill = self._limits.burst / self._limits.per_second
            self._budgets = {uid: budget for uid, budget in self._budgets.items() if now - budget.since < refill}

    def _fork(self, connection: socket.socket, uid: int) -> None:
        """The child waits until only it holds the connection, and the handler has done its part."""
        try:
            pid, go = _held_child(lambda: self._handler.run(uid, connection))
        except OSError as error:
            self._pause(f"cannot fork: {error.strerror}")
            self._refuse(connection, uid, f"cannot fork: {error.strerror}")
            return
        self._children[pid] = uid
        connection.close()  # not the last one: the child holds another, and waits
        try:
            self._handler.on_start(uid, pid)
            os.write(go, _GO)
        except OSError as error:
            log.info("uid %d was not served: %s", uid, error.strerror)
        finally:
            os.close(go)

    def _refuse(self, connection: socket.socket, uid: int, reason: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(uid, -_LOG_PAUSE) >= _LOG_PAUSE:
            self._logged = {other: at for other, at in self._logged.items() if now - at < _LOG_PAUSE} | {uid: now}
            log.warning("refused uid %d: %s", uid, reason)
        connection.setblocking(False)
        try:
            connection.send(self._handler.rejection(reason))
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it hung up first
        self._refused.append(connection)

    def _let_go(self) -> None:
        """Close the refused connections while a child holds them too."""
        try:
            _pid, go = _held_child(lambda: None)
        except OSError as error:
            self._pause(f"cannot fork: {error.strerror}")
            return
        for connection in self._refused:
            connection.close()
        self._refused = []
        os.close(go)

    def _pause(self, reason: str) -> None:
        log.error("%s; no connection is accepted for a moment", reason)
        self._closed_until = time.monotonic() + _PATIENCE

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            uid = self._children.pop(pid, None)
            if uid is not None:
                self._handler.on_exit(uid, pid, status)


def _held_child(act: Callable[[], object]) -> tuple[int, int]:
    """Fork a child that waits for `_GO`, then acts; without `_GO` it exits. Returns its pid and the pipe to write to.

    OSError when the host has no room for it.
    """
    wait, go = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        close_all([wait, go])
        raise
    if pid == 0:
        try:
            os.close(go)
            if os.read(wait, 1) == _GO:
                os.close(wait)
                act()
        finally:
            os._exit(1)
    os.close(wait)
    return pid, go
