"""Run the grading program in the view of a submission, as its account, and read what it wrote there."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver.requests import Place
from nblauncher.grading.by_command.results import MOST_BYTES
from nblauncher.isolation import spawn, views
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child
from nblauncher.model import ROOT, Account
from nblauncher.system import interruption, privileges, processes, workers

RESULT = str(views.HOME / "result")
"""Where the program writes its result, if it writes one: `{result}` in grading.command, and a variable."""

VARIABLE = "GRADING_RESULT"
_PART = 1 << 16
_READING = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program ended; `exit_code` None: it was ended, because its time was over."""

    exit_code: int | None
    output: str


def run(
    place: Place, argv: Sequence[str], environment: Mapping[str, str], folder: str, *, seconds: float, most: int
) -> Ended:
    """Runs as root, which reads no more than `most` bytes of the output; the rest is dropped. HostError."""
    words = tuple(word.replace("{result}", RESULT) for word in argv)
    found = _found(words[0], environment["PATH"])
    child = Child(place.account, (found, *words[1:]), environment, (), views.HOME / folder, place.sandbox)
    handle, output = spawn.fork_exec(child)
    pidfd = os.pidfd_open(handle.pid)  # our child until it is waited for, even if it has ended by now
    try:
        kept = _collected(output, pidfd, time.monotonic() + seconds, most)
        is_over = processes.wait_for_end(pidfd, 0)
        if not is_over:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            processes.wait_for_end(pidfd, _READING)
        _pid, status = os.waitpid(handle.pid, 0)
    finally:
        os.close(output)
        os.close(pidfd)
    text = kept.decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status) if is_over else None, text)


def _collected(output: int, pidfd: int, deadline: float, most: int) -> bytes:
    """What it prints until it ends, or its time is over."""
    kept = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        ready = interruption.wait([output, pidfd], left)
        if output in ready:
            part = _read(output)
            kept += part[: max(0, most - len(kept))]
            if part:
                continue
        if pidfd in ready:
            while part := _read(output):
                kept += part[: max(0, most - len(kept))]
            break
        if output in ready:  # closed, and the program goes on
            interruption.wait([pidfd], max(0.0, deadline - time.monotonic()))
            break
    return bytes(kept)


def _read(output: int) -> bytes:
    try:
        return os.read(output, _PART)
    except BlockingIOError:
        return b""


def _found(name: str, path: str) -> str:
    """The program, as a shell would find it."""
    if "/" in name:
        return name
    for folder in path.split(os.pathsep):
        if os.access(os.path.join(folder, name), os.X_OK):
            return os.path.join(folder, name)
    raise HostError(f"grading.command: there is no program {name}", "Name its package in grading.requirements.")


def result_of(place: Place) -> str | None:
    """The result file as text (surrogate escapes), read by a child that is the submission's account in its view; None
    when there is none.
    """
    worker = workers.start(ROOT, _print_result, place.account, place.sandbox)
    found: Mapping[str, Any] = worker.result(_READING)
    return None if found["data"] is None else str(found["data"])


def _print_result(account: Account, sandbox: Sandbox) -> dict[str, Any]:
    sandbox.enter()
    privileges.drop_to(account)
    try:
        descriptor = os.open(RESULT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {"data": None}
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {"data": None}
        return {"data": file.read(MOST_BYTES + 1).decode("utf-8", "surrogateescape")}
