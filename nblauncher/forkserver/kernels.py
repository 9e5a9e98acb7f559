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

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from nblauncher import wire
from nblauncher.fork_requests import Place, RequestError, answer, receive
from nblauncher.forkserver import kernel_warm_up, life, preload, rehearsal, renewal
from nblauncher.forkserver.kernel_child import Kernel, Preloaded
from nblauncher.forkserver.preload import Found
from nblauncher.reception import Limits, Reception
from nblauncher.wire import WireError, close_all

log = logging.getLogger("nblauncher.forkserver")

LIMITS = Limits(children=32, burst=12, per_second=2)
"""Of one student. Who wants more gets ordinary kernels."""

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
    os.environ.update(rehearsal.VARIABLES)
    wanted = tuple(filter(None, modules.split(",")))
    # A class that is just being launched needs the processors for its servers first.
    os.setpriority(os.PRIO_PROCESS, 0, _WHILE_LOADING)
    preloaded, known = _load(Path(found), wanted, threadpoolctl)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    if preload.threads() > 1:
        reason = f"something in {', '.join(wanted)} starts threads when it is imported, and they would be missing"
        log.error("%s", reason)
        answer(link, {"refused": [reason]})
        return 4
    missing = [name for name in wanted if name not in sys.modules and name not in known.left_out]
    answer(link, {"ready": len(sys.modules), "missing": missing, "left_out": dict(known.left_out)})
    host = KernelHost(link, preloaded)
    Reception(socket.socket(fileno=int(door)), host, LIMITS).serve(link, host.listen)
    return 0


def _load(found: Path, wanted: tuple[str, ...], threadpoolctl: str) -> tuple[Preloaded, Found]:
    """What a kernel needs, as it was found before or by a warm-up now, and then what the teacher wants in addition."""
    environment = [*preload.environment(), list(wanted)]
    known = preload.recall(found, environment)
    origin = ", as found before"
    if known is None:
        origin = ""
        known = _find(wanted)
        if known.names:
            preload.note(found, environment, known)
    preloaded = Preloaded.here(threadpoolctl)
    with rehearsal.as_in_a_kernel():
        preload.load(known.names)
    preloaded.look_around()
    preload.freeze()
    log.info("%d modules are loaded%s; threads: %d", len(sys.modules), origin, preload.threads())
    return preloaded, known


def _find(wanted: tuple[str, ...]) -> Found:
    account = life.unprivileged()
    if account is None:
        return Found(wanted)
    names = preload.found_by(lambda home: kernel_warm_up.run_once(home, wanted), account)
    return rehearsal.rehearsed(names, wanted, account)


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
