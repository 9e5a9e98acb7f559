"""Grade one submission on a bench of the workshop: root starts the processes, waits, and ends them.

    the teacher's child --files--> the kernel's folder      (as the kernel's account, in its view)
           |  ^
    notebooks  results     over a socket that only the two hold
           v  |
         the judge --ZMQ, unix sockets--> the kernel         (another account, no network)

Root reads one bounded answer of the teacher's child, as data.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.grading import records, working_folder, workshop
from nblauncher.grading.task import Task
from nblauncher.grading.workshop import Bench, Workshop
from nblauncher.isolation import limits, views
from nblauncher.isolation.limits import Pressure
from nblauncher.model import ROOT, Account
from nblauncher.printable import printable_lines
from nblauncher.system import interruption, wire, workers
from nblauncher.system.descriptors import sealed
from nblauncher.system.wire import close_all

log = logging.getLogger(__name__)

_SPARE = 30.0
"""Seconds beyond its time in which a submission can be handed over, and its result be written."""

_WRITING = 120.0
_OVERHEAD = 1 << 20
_MOST_TRACE = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(Task):
    """What nbgrader needs besides: the assignment's cells, the told part of the config, and a copy of the gradebook."""

    cells: Mapping[str, Any]
    kernelspecs: Mapping[str, str | None]
    config: Mapping[str, Any]
    gradebook: bytes
    kernel: Mapping[str, Any]
    """argv and environment of the kernels."""
    max_score: float


@dataclass(frozen=True, slots=True)
class One:
    """A student's submission. `number` counts them."""

    username: str
    digest: str
    number: int


def grade(place: Workshop, wanted: Wanted, one: One) -> Mapping[str, Any]:
    """The record that was written. HostError when it was not the submission that failed: then nothing was written."""
    with place.bench(wanted.uids, 2 * one.number, wanted.limits, wanted.disk) as bench, contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        root, teachers = socket.socketpair()
        source, files = os.pipe2(os.O_CLOEXEC)
        for closing in (ours.close, theirs.close, root.close, teachers.close):
            stack.callback(closing)
        ends = [source, files]
        stack.callback(lambda: close_all(ends))
        child = stack.enter_context(place.teacher(wanted.teacher, _common(place, wanted)))
        given = [teachers.fileno(), ours.fileno(), files]
        try:
            wire.send(child, {"submission": _order(wanted, one, bench.kernel.account)}, given)
        except OSError as error:
            raise HostError("the teacher's child has ended") from error
        ours.close()
        teachers.close()
        os.close(ends.pop())
        if not _fill(bench, wanted, source, root):
            return _answer(root, _WRITING)
        gradebook = sealed(wanted.gradebook, bench.judge.account)
        ends.append(gradebook)
        judge = place.judge(bench.judge, [theirs.fileno(), gradebook])
        stack.callback(judge.close)
        theirs.close()
        return _result(root, bench, wanted)


def _common(shop: Workshop, wanted: Wanted) -> dict[str, Any]:
    """Of an order, what all submissions have in common."""
    return {
        "root": str(wanted.root),
        "assignment": wanted.assignment,
        "cells": wanted.cells,
        "kernelspecs": wanted.kernelspecs,
        "config": wanted.config,
        "kernels": {
            "argv": wanted.kernel["argv"],
            "socket": str(workshop.DOOR / workshop.KERNELS_SOCKET),
            "place": str(workshop.SOCKETS),
            "language_info": dict(shop.language_info),
        },
        "limits": {"seconds": wanted.seconds, "output": wanted.output},
        "disk": wanted.disk,
        "max_score": wanted.max_score,
    }


def _order(wanted: Wanted, one: One, account: Account) -> dict[str, Any]:
    own = {"HOME": str(views.HOME), "USER": account.username, "LOGNAME": account.username}
    own["JUPYTER_RUNTIME_DIR"] = str(views.HOME / working_folder.RUNTIME)
    environment = {**wanted.kernel["environment"], **own}
    return {"student": one.username, "digest": one.digest, "environment": environment}


def _fill(bench: Bench, wanted: Wanted, source: int, teacher: socket.socket) -> bool:
    """Have the files written; whether there is something to judge."""
    place = bench.kernel
    most = wanted.disk + _OVERHEAD
    arguments = (place.account, place.sandbox, wanted.assignment, source, most)
    worker = workers.start(ROOT, working_folder.fill, *arguments, keep={source})
    try:
        worker.result(_SPARE + wanted.seconds)
    except HostError as error:
        words = limits.pressure(place.sandbox.group).words(wanted.limits) or [error.problem]
        with contextlib.suppress(OSError):
            workers.write_frame(teacher.fileno(), {"why": f"its files have no room: {', '.join(words)}"})
        return False
    return not select.select([teacher], [], [], 0)[0]


def _result(teacher: socket.socket, bench: Bench, wanted: Wanted) -> Mapping[str, Any]:
    deadline = time.monotonic() + wanted.seconds + _SPARE
    if not interruption.wait([teacher.fileno()], max(0.0, deadline - time.monotonic())):
        why = f"it was not done after {wanted.seconds} s and was ended"
        # A judge that stopped in the middle of a message would keep the teacher's child waiting for the rest.
        bench.judge.sandbox.group.kill()
        with contextlib.suppress(OSError):
            workers.write_frame(teacher.fileno(), {"why": why})
        return _answer(teacher, _WRITING)
    frame = workers.read_frame(teacher.fileno(), _WRITING)
    if frame is not None and frame.header.get("ended"):
        workers.write_frame(teacher.fileno(), {"why": _why(bench, wanted)})
        return _answer(teacher, _WRITING)
    return _record(frame, bench, wanted)


def _answer(teacher: socket.socket, patience: float) -> Mapping[str, Any]:
    try:
        frame = workers.read_frame(teacher.fileno(), patience)
        while frame is not None and frame.header.get("ended"):  # both noticed the end
            frame = workers.read_frame(teacher.fileno(), patience)
    except TimeoutError as error:
        raise HostError("the teacher's child did not write the result") from error
    return _record(frame)


def _record(frame: workers.Frame | None, bench: Bench | None = None, wanted: Wanted | None = None) -> Mapping[str, Any]:
    if frame is None:
        raise HostError("the teacher's child ended without a result")
    if "trace" in frame.header:
        log.error("%s", printable_lines(str(frame.header["trace"])[-_MOST_TRACE:]))
    if "problem" in frame.header:
        raise HostError(str(frame.header["problem"])[:1000])
    record = records.checked(frame.header.get("record"))
    if record is None:
        raise HostError("the teacher's child sent what is not a record")
    if bench is not None and wanted is not None:
        more = [f"its code: {words}" for words in _pressure(bench).words(wanted.limits)]
        record["warnings"] = [*record["warnings"], *more]
    return record


def _pressure(bench: Bench) -> Pressure:
    return limits.pressure(bench.kernel.sandbox.group)


def _why(bench: Bench, wanted: Wanted) -> str:
    """Why a judge ended early."""
    words = limits.pressure(bench.judge.sandbox.group).words(wanted.limits)
    return f"its judge ended: {', '.join(words)}" if words else "its judge ended before it was done"
