"""The fork server of kernels: `PYTHON foreign.py nblauncher.forkserver.kernels FOUND THREADPOOLCTL MODULES DOOR LINK`.

It runs as root, in the Python that runs the class's kernels, with the MODULES that the teacher wants (`a,b.c`) loaded.
DOOR is the number of the listening socket where students' servers ask for kernels, LINK that of its socket to the
supervisor. What LINK says (`know`, `forget`) decides who may have a kernel and in which control group.

Nothing that a student sends is read here: the uid of the socket's peer is looked up, and a child that has become that
student reads what is wanted. Even a descriptor in a message that nobody reads could block who closes it (SO_LINGER,
socket(7)), so a connection is never closed here while nobody else holds it, see `_let_go`.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nblauncher import wire
from nblauncher.descriptors import peer_uid
from nblauncher.fork_requests import Place, RequestError, answer, receive
from nblauncher.forkserver import kernel_warm_up, life, preload
from nblauncher.forkserver.kernel_child import GO, ONE_THREAD, Kernel, Preloaded
from nblauncher.wire import WireError, close_all

log = logging.getLogger("nblauncher.forkserver")

MOST_KERNELS = 32
"""That one student may have from here at the same time; more are ordinary ones."""

BURST, PER_SECOND = 12.0, 2.0
"""Requests of one student: so many at once, and so many a second from then on."""

_BACKEND = "module://matplotlib_inline.backend_inline"
"""As ipykernel sets it before matplotlib can be imported."""

_IN_A_KERNEL_ONLY = ("matplotlib_inline",)
"""Packages that connect themselves with the running kernel when they are imported."""

_WHILE_LOADING = 10
"""The niceness (setpriority(2))."""

_MOST_REFUSED = 100
_PATIENCE = 0.5
_LOG_PAUSE = 10.0


def main(arguments: list[str]) -> int:
    """Look, load, say so, serve."""
    found, threadpoolctl, modules, door, number = arguments
    link = life.open_link(number)
    if life.refuses_to_import(link):
        return 4
    os.environ.update(ONE_THREAD, MPLBACKEND=_BACKEND)
    wanted = tuple(filter(None, modules.split(",")))
    # A class that is just being launched needs the processors for its servers first.
    os.setpriority(os.PRIO_PROCESS, 0, _WHILE_LOADING)
    preloaded, missing = _load(Path(found), wanted, threadpoolctl)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    if preload.threads() > 1:
        reason = f"something in {', '.join(wanted)} starts threads when it is imported, and they would be missing"
        log.error("%s", reason)
        answer(link, {"refused": [reason]})
        return 4
    answer(link, {"ready": len(sys.modules), "missing": missing})
    Reception(link, socket.socket(fileno=int(door)), preloaded).serve()
    return 0


def _load(found: Path, wanted: tuple[str, ...], threadpoolctl: str) -> tuple[Preloaded, list[str]]:
    """What a kernel needs, as it was found before or by a warm-up now, and what the teacher wants of it in addition."""
    environment = [*preload.environment(), list(wanted)]
    names = preload.recall(found, environment)
    origin = ", as found before"
    if names is None:
        origin = ""
        account = life.unprivileged()
        names = preload.found_by(lambda home: kernel_warm_up.run_once(home, wanted), account) if account else ()
        if names:
            preload.note(found, environment, names)
    preloaded = Preloaded.here(threadpoolctl)
    with _as_in_a_kernel():
        missing = preload.load(wanted)
        preload.load(name for name in names if name.partition(".")[0] not in _IN_A_KERNEL_ONLY)
    preloaded.look_around()
    preload.freeze()
    log.info("%d modules are loaded%s; threads: %d", len(sys.modules), origin, preload.threads())
    return preloaded, missing


@contextlib.contextmanager
def _as_in_a_kernel() -> Iterator[None]:
    """What modules look at when they are imported: pandas shows wide tables to a terminal in another way."""
    stdout = sys.stdout
    vars(builtins)["get_ipython"] = lambda: SimpleNamespace(kernel=None, config={})
    with open(os.devnull, "w", encoding="UTF-8") as sys.stdout:  # spelled as ipykernel's own stream says it
        try:
            yield
        finally:
            sys.stdout = stdout
            del vars(builtins)["get_ipython"]


@dataclass
class Budget:
    """How many requests a student may still make; refills with time."""

    left: float = BURST
    since: float = 0.0

    def take(self, now: float) -> bool:
        self.left = min(BURST, self.left + PER_SECOND * (now - self.since))
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Reception:
    """Who is known, who comes, and what runs."""

    def __init__(self, link: socket.socket, door: socket.socket, preloaded: Preloaded) -> None:
        self._link, self._door, self._preloaded = link, door, preloaded
        self._places: dict[int, Place] = {}
        self._budgets: dict[int, Budget] = {}
        self._kernels: dict[int, int] = {}
        """pid → uid of those that run."""
        self._refused: list[socket.socket] = []
        self._logged: dict[int, float] = {}
        self._closed_until = 0.0
        self._has_forked = False
        door.setblocking(False)
        link.setblocking(False)
        door.set_inheritable(False)

    def serve(self) -> None:
        """Until the supervisor hangs up. What it says comes first: nobody gets a kernel after `forget`."""
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while True:
            watched = [self._link.fileno(), woken]
            if time.monotonic() >= self._closed_until:
                watched.append(self._door.fileno())
            ready, _, _ = select.select(watched, [], [], _PATIENCE if self._refused or len(watched) < 3 else None)
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if not self._listen():
                return
            if self._door.fileno() in ready:
                self._admit()
            if self._refused and (not ready or len(self._refused) >= _MOST_REFUSED):
                self._let_go()

    def _listen(self) -> bool:
        """Take what the supervisor said; False at the end."""
        while True:
            try:
                packet = receive(self._link)
            except BlockingIOError:
                return True
            except WireError as error:
                log.warning("refused a request: %s", error)
                continue
            if packet is None:
                return False
            message, descriptors = packet
            close_all(descriptors)
            try:
                self._heard(message)
            except RequestError as error:
                log.warning("refused a request: %s", error)

    def _heard(self, message: Mapping[str, Any]) -> None:
        known, gone = message.get("know"), message.get("forget")
        if isinstance(known, dict):
            place = Place.parse(known)
            self._places[place.account.uid] = place
        elif type(gone) is int:
            self._places.pop(gone, None)
            self._budgets.pop(gone, None)
            self._say({"forgotten": gone})
        else:
            raise RequestError("that is neither know nor forget")

    def _say(self, message: Mapping[str, Any]) -> None:
        """The supervisor reads at once; one that does not is gone."""
        try:
            answer(self._link, message)
        except OSError as error:
            log.warning("the supervisor does not listen: %s", error.strerror)

    def _admit(self) -> None:
        try:
            connection, _address = self._door.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.error("cannot accept a connection: %s", error.strerror)
            self._closed_until = time.monotonic() + _PATIENCE
            return
        uid = peer_uid(connection)
        place = self._places.get(uid)
        if place is None:
            self._refuse(connection, uid, "this class has no server for you now")
        elif not self._budgets.setdefault(uid, Budget()).take(time.monotonic()):
            self._refuse(connection, uid, "too many requests")
        elif Counter(self._kernels.values())[uid] >= MOST_KERNELS:
            self._refuse(connection, uid, f"{MOST_KERNELS} kernels run already")
        else:
            self._fork(connection, place)

    def _fork(self, connection: socket.socket, place: Place) -> None:
        """The child waits until it is in its group and alone with its connection."""
        wait, go = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:
            close_all([wait, go])
            log.error("cannot fork: %s", error.strerror)
            self._refuse(connection, place.account.uid, f"cannot fork: {error.strerror}")
            return
        if pid == 0:
            os.close(go)
            Kernel(place, self._preloaded).live(connection, wait)
        if not self._has_forked:
            self._has_forked = True
            self._say({"forked": pid})
        self._kernels[pid] = place.account.uid
        connection.close()  # not the last one: the child holds another, and waits
        try:
            place.group.enter(pid)
            os.write(go, GO)
        except OSError as error:
            # Its group is gone: the student's server was just stopped. Without the word the child ends.
            log.info("no kernel for %s: %s", place.account.username, error.strerror)
        finally:
            close_all([wait, go])

    def _refuse(self, connection: socket.socket, uid: int, why: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(uid, -_LOG_PAUSE) >= _LOG_PAUSE:
            self._logged = {one: when for one, when in self._logged.items() if now - when < _LOG_PAUSE} | {uid: now}
            log.warning("refused a kernel to uid %d: %s", uid, why)
        connection.setblocking(False)
        try:
            connection.send(wire.pack({"problem": why}))
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it hung up first
        self._refused.append(connection)

    def _let_go(self) -> None:
        """Close the refused connections while a child holds them, too: what was sent with them is closed when it exits,
        and an exiting process does not linger.
        """
        wait, go = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:
            close_all([wait, go])
            log.error("cannot fork: %s", error.strerror)
            self._closed_until = time.monotonic() + _PATIENCE
            return
        if pid == 0:
            os.close(go)
            os.read(wait, 1)
            os._exit(0)
        for connection in self._refused:
            connection.close()
        self._refused = []
        close_all([wait, go])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            uid = self._kernels.pop(pid, None)
            if uid is not None and status:
                log.info("a kernel of uid %d, pid %d, ended with %d", uid, pid, os.waitstatus_to_exitcode(status))
