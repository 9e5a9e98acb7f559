"""`BARE foreign.py nblauncher.forkserver.kernels PYTHON FOUND THREADPOOLCTL MODULES DOOR LINK` forks kernels.

It runs as root, as the Python that runs the class's kernels, with the MODULES that the teacher wants (`a,b.c`) loaded.
BARE is the same interpreter without its packages: one that starts in PYTHON's environment would execute every `.pth`
file there as root, of every package that the course installs and of all their dependencies. Here root takes only paths
from those files; their code runs in each kernel, as the student.
DOOR is the number of the listening socket where students' servers ask for kernels, LINK that of its socket to the
supervisor. The messages on LINK (`know`, `forget`) decide which students may have a kernel, and in which control group.

Nothing that a student sends is read here (nblauncher.system.unix_server): a child that has become that student does.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from nblauncher.forkserver import first_cell, kernel_warm_up, life, preload, rehearsal, renewal
from nblauncher.forkserver.kernel_child import Kernel, Preloaded
from nblauncher.forkserver.preload import Found
from nblauncher.forkserver.requests import Place, RequestError, answer, receive
from nblauncher.system import wire
from nblauncher.system.unix_server import Limits, UnixServer
from nblauncher.system.wire import WireError, close_all

log = logging.getLogger("nblauncher.forkserver")

LIMITS = Limits(children=32, burst=12, per_second=2)
"""Of one student, who gets ordinary kernels beyond that."""

_KERNEL = "ipykernel.kernelapp"
"""What a warm-up always finds."""

_WHILE_LOADING = 10
"""The niceness (setpriority(2))."""


def main(arguments: list[str]) -> int:
    """Check the folders, load the modules, report that, serve."""
    python, found, threadpoolctl, modules, door, number = arguments
    link = life.open_link(number)
    if python:  # empty: it is BARE itself
        renewal.use_virtual_environment(Path(python), tuple(sys.path), runs_pth_lines=False)
    if life.refuses_to_import(link):
        return 4
    os.environ.update(rehearsal.VARIABLES)
    wanted = tuple(filter(None, modules.split(",")))
    # While a class is being launched, its servers need the processors more.
    os.setpriority(os.PRIO_PROCESS, 0, _WHILE_LOADING)
    preloaded, known = _load(Path(found), wanted, threadpoolctl)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    if preload.threads(1) > 1:
        reason = f"something in {', '.join(wanted)} starts threads when it is imported, and they would be missing"
        log.error("%s", reason)
        answer(link, {"refused": [reason]})
        return 4
    missing = [name for name in wanted if name not in sys.modules and name not in known.left_out]
    language = getattr(getattr(sys.modules.get("ipykernel.ipkernel"), "IPythonKernel", None), "language_info", {})
    left_out = dict(known.left_out)
    answer(link, {"ready": len(sys.modules), "missing": missing, "left_out": left_out, "language_info": language})
    host = KernelHost(link, preloaded)
    UnixServer(socket.socket(fileno=int(door)), host, LIMITS).serve(link, host.listen)
    return 0


def _load(found: Path, wanted: tuple[str, ...], threadpoolctl: str) -> tuple[Preloaded, Found]:
    """Load what a kernel needs, as noted before or found by a warm-up now, and then what the teacher wants."""
    environment = [*preload.environment(), list(wanted)]
    known = preload.recall(found, environment)
    origin = ", as found before"
    if known is None:
        origin = ""
        known = _find(wanted)
        if _KERNEL in known.names:  # not after a warm-up that failed, on a busy host for example
            preload.note(found, environment, known)
    preloaded = Preloaded.here(threadpoolctl)
    with rehearsal.as_in_a_kernel():
        preload.load(known.names)
    first_cell.rehearse()
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
    """The students that the supervisor named, and what is loaded for them."""

    def __init__(self, link: socket.socket, preloaded: Preloaded) -> None:
        self._link, self._preloaded = link, preloaded
        self._places: dict[int, Place] = {}
        """By the uid that asks."""
        self._has_forked = False
        link.setblocking(False)

    def listen(self) -> bool:
        """Read the supervisor's messages; False at the end. No kernel is forked for a student after `forget`."""
        while True:
            try:
                packet = receive(self._link)
            except BlockingIOError:
                return True
            except ConnectionError:  # it ended without reading all that was answered
                return False
            except WireError as error:
                log.warning("refused a request: %s", error)
                continue
            if packet is None:
                return False
            message, descriptors = packet
            close_all(descriptors)
            try:
                self._handle_message(message)
            except RequestError as error:
                log.warning("refused a request: %s", error)

    def reject_reason(self, uid: int) -> str:
        return "" if uid in self._places else "this class has no server for you now"

    def rejection(self, reason: str) -> bytes:
        return wire.pack({"problem": reason})

    def on_start(self, uid: int, pid: int) -> None:
        """If the student's server was stopped meanwhile, its group is gone, and there is no kernel."""
        self._places[uid].sandbox.group.enter(pid)
        if not self._has_forked:
            self._has_forked = True
            self._send({"forked": pid})

    def run(self, uid: int, connection: socket.socket) -> NoReturn:
        Kernel(self._places[uid], self._preloaded).live(connection)

    def on_exit(self, uid: int, pid: int, status: int) -> None:
        if status:
            log.info("a kernel of uid %d, pid %d, ended with %d", uid, pid, os.waitstatus_to_exitcode(status))

    def _handle_message(self, message: Mapping[str, Any]) -> None:
        known, asking, gone = message.get("know"), message.get("asking"), message.get("forget")
        if isinstance(known, dict) and type(asking) is int:
            self._places[asking] = Place.parse(known)
        elif type(gone) is int:
            self._places.pop(gone, None)
            self._send({"forgotten": gone})
        else:
            raise RequestError("neither know nor forget")

    def _send(self, message: Mapping[str, Any]) -> None:
        """The supervisor reads at once; if it does not, it is gone."""
        try:
            answer(self._link, message)
        except OSError as error:
            log.warning("cannot reach the supervisor: %s", error.strerror)
