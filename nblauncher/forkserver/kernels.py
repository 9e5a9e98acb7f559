"""`BARE foreign.py nblauncher.forkserver.kernels PYTHON FOUND THREADPOOLCTL MODULES DOOR LINK` forks kernels.

It runs as root, as the Python that runs the class's kernels, with the MODULES that the teacher wants (`a,b.c`) loaded.
BARE is the same interpreter without its packages: one that starts in PYTHON's environment would execute every `.pth`
file there as root, of every package that the course asked for and all that those brought with them. Here root takes
only paths from those files; their code runs in each kernel, as the student.
DOOR is the number of the listening socket where students' servers ask for kernels, LINK that of its socket to the
supervisor. What LINK says (`know`, `forget`) decides who may have a kernel and in which control group.

Nothing that a student sends is read here (nblauncher.reception): a child that has become that student does.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from nblauncher import wire
from nblauncher.fork_requests import Place, RequestError, answer, receive
from nblauncher.forkserver import kernel_warm_up, life, preload, renewal
from nblauncher.forkserver.kernel_child import ONE_THREAD, Kernel, Preloaded
from nblauncher.reception import Limits, Reception
from nblauncher.wire import WireError, close_all

log = logging.getLogger("nblauncher.forkserver")

LIMITS = Limits(children=32, burst=12, per_second=2)
"""Of one student. Who wants more gets ordinary kernels."""

_BACKEND = "module://matplotlib_inline.backend_inline"
"""As ipykernel sets it before matplotlib can be imported."""

_IN_A_KERNEL_ONLY = ("matplotlib_inline",)
"""Packages that connect themselves with the running kernel when they are imported."""

_WHILE_LOADING = 10
"""The niceness (setpriority(2))."""


def main(arguments: list[str]) -> int:
    """Look, load, say so, serve."""
    python, found, threadpoolctl, modules, door, number = arguments
    link = life.open_link(number)
    if python:  # empty: it is BARE itself
        renewal.use_virtual_environment(Path(python), tuple(sys.path), runs_pth_lines=False)
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
    host = KernelHost(link, preloaded)
    Reception(socket.socket(fileno=int(door)), host, LIMITS).serve(link, host.listen)
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


class KernelHost:
    """Whom the supervisor named, and what is loaded for them."""

    def __init__(self, link: socket.socket, preloaded: Preloaded) -> None:
        self._link, self._preloaded = link, preloaded
        self._places: dict[int, Place] = {}
        self._has_forked = False
        link.setblocking(False)

    def listen(self) -> bool:
        """Take what the supervisor said; False at the end. Nobody gets a kernel after `forget`."""
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

    def objection(self, uid: int) -> str:
        return "" if uid in self._places else "this class has no server for you now"

    def refusal(self, why: str) -> bytes:
        return wire.pack({"problem": why})

    def begun(self, uid: int, pid: int) -> None:
        """Its group is gone when the student's server was just stopped: then there is no kernel."""
        self._places[uid].sandbox.group.enter(pid)
        if not self._has_forked:
            self._has_forked = True
            self._say({"forked": pid})

    def live(self, uid: int, connection: socket.socket) -> NoReturn:
        Kernel(self._places[uid], self._preloaded).live(connection)

    def ended(self, uid: int, pid: int, status: int) -> None:
        if status:
            log.info("a kernel of uid %d, pid %d, ended with %d", uid, pid, os.waitstatus_to_exitcode(status))

    def _heard(self, message: Mapping[str, Any]) -> None:
        known, gone = message.get("know"), message.get("forget")
        if isinstance(known, dict):
            place = Place.parse(known)
            self._places[place.account.uid] = place
        elif type(gone) is int:
            self._places.pop(gone, None)
            self._say({"forgotten": gone})
        else:
            raise RequestError("that is neither know nor forget")

    def _say(self, message: Mapping[str, Any]) -> None:
        """The supervisor reads at once; one that does not is gone."""
        try:
            answer(self._link, message)
        except OSError as error:
            log.warning("the supervisor does not listen: %s", error.strerror)
