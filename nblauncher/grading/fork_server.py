"""`BARE foreign.py nblauncher.grading.fork_server PYTHON DOOR LINK`: forks judges and the teacher's children, as root.

It has nbgrader loaded once. DOOR is the number of a listening socket that only root can reach, LINK that of the socket
to the command that started it, with which it ends. A connection carries one request, with descriptors; the child that
is forked for it becomes the account, and keeps the connection.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from nblauncher.forkserver import life, preload, renewal
from nblauncher.forkserver.requests import Place, RequestError, answer, receive
from nblauncher.isolation import spawn
from nblauncher.isolation.spawn import Child
from nblauncher.system import late_grammar, privileges, wire
from nblauncher.system.unix_server import Limits, UnixServer

log = logging.getLogger("nblauncher.grading")

ROLES = {
    "survey": "nblauncher.grading.teacher_side.survey",
    "judge": "nblauncher.grading.judge_side.judge",
    "teacher": "nblauncher.grading.teacher_side.bench",
}
"""The modules whose `run(connection, order, *descriptors)` is called."""

_DESCRIPTORS = {"survey": 0, "judge": 2, "teacher": 0}
LIMITS = Limits(children=1000, burst=1000, per_second=1000)
_RECEIVING = 30.0


def main(arguments: list[str]) -> int:
    python, door, number = arguments
    link = life.open_link(number)
    if python:
        renewal.use_virtual_environment(Path(python), tuple(sys.path), runs_pth_lines=False)
    if life.refuses_to_import(link):
        return 4
    late_grammar.postpone()  # not before: it looks for the grammar in the environment
    gc.disable()  # modules are there to stay
    for module in ROLES.values():
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    if preload.threads(1) > 1:
        answer(link, {"refused": ["a package of grading.requirements starts threads when it is imported"]})
        return 4
    answer(link, {"ready": len(sys.modules)})
    link.setblocking(False)
    UnixServer(socket.socket(fileno=int(door)), _Host(), LIMITS).serve(link, lambda: _listen(link))
    return 0


def _listen(link: socket.socket) -> bool:
    """The command sends one thing, once there is something to grade. The end of the stream is its end."""
    try:
        packet = receive(link)
    except BlockingIOError:
        return True
    except ConnectionError:  # it ended without reading all that was answered
        return False
    if packet is None:
        return False
    _rehearse()
    preload.freeze()
    answer(link, {"ready": len(sys.modules)})
    return True


def _rehearse() -> None:
    """Whatever a version of nbgrader objects to here: submissions are graded without it, only slower."""
    try:
        importlib.import_module("nblauncher.grading.rehearsal").rehearse()
    except Exception:
        log.exception("the rehearsal failed")


class _Host:
    def reject_reason(self, uid: int) -> str:
        return "" if uid == 0 else "only root may ask"

    def rejection(self, reason: str) -> bytes:
        return wire.pack({"problem": reason})

    def on_start(self, uid: int, pid: int) -> None: ...

    def run(self, uid: int, connection: socket.socket) -> NoReturn:
        life.live(lambda: _live(connection))

    def on_exit(self, uid: int, pid: int, status: int) -> None:
        if status:
            log.info("pid %d ended with %d", pid, os.waitstatus_to_exitcode(status))


def _live(connection: socket.socket) -> int:
    """Read root's request, become the account, and do the work."""
    request, descriptors = _received(connection)
    role = str(request.get("role"))
    module = ROLES[role]
    if len(descriptors) != _DESCRIPTORS[role]:
        raise RequestError("descriptors are missing")
    place = Place.parse(request["place"])
    command_line = privileges.command_line()
    nothing = os.open(os.devnull, os.O_WRONLY)
    keep = (connection.fileno(), *descriptors)
    spawn.settle(Child(place.account, (), {}, keep, place.account.home, place.sandbox), nothing)
    os.umask(place.umask)
    renewal.use_pythons_signals()
    renewal.renew(request["environment"])
    privileges.set_name(f"grade-{role}")
    privileges.set_command_line(command_line, (sys.executable, "-m", module))
    act = importlib.import_module(module).run
    connection.setblocking(True)
    status: int = act(connection, request["order"], *descriptors)
    return status


def _received(connection: socket.socket) -> tuple[Mapping[str, Any], list[int]]:
    """Nothing else may have been sent: more than the request could be taken, and `settle` closes what came with it."""
    reader = wire.Reader()
    connection.settimeout(_RECEIVING)
    while (message := reader.next()) is None:
        if not reader.feed(connection):
            raise RequestError("it hung up")
    return message
