"""Start a course's supervisor, for root's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from nblauncher.errors import BusyError, HostError, RefusedError
from nblauncher.system import interruption, processes

_ENDING = 30.0
"""Seconds that the process which forks the supervisor may take to end."""


def launch(course: str, deadline: float) -> None:
    """Run a supervisor and read its report on the start, which must come within `deadline` seconds.

    HostError, RefusedError or BusyError when it does not start.
    """
    environment = {
        "PATH": processes.ENVIRONMENT["PATH"],
        "LANG": os.environ.get("LANG") or "C.UTF-8",
        **({"TZ": os.environ["TZ"]} if os.environ.get("TZ") else {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "nblauncher.supervisor", course],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: S101
    with process.stdout as stdout, process.stderr as stderr:
        line = _read_line(stdout.fileno(), deadline)
        process.wait(_ENDING)
        if not line:
            words = processes.last_words(stderr.read().decode(errors="replace"))
            raise HostError(f"the supervisor did not start: {words or 'see its log'}")
    report = json.loads(line)
    if "problem" in report:
        kind = {"BusyError": BusyError, "RefusedError": RefusedError}.get(report["kind"], HostError)
        raise kind(report["problem"], report["hint"])


def _read_line(descriptor: int, deadline: float) -> bytes:
    until = time.monotonic() + deadline
    line = b""
    while not line.endswith(b"\n"):
        if not interruption.wait([descriptor], max(0.0, until - time.monotonic())):
            raise HostError(f"the supervisor did not start within {deadline:.0f} s")
        part = os.read(descriptor, 65536)
        if not part:
            return b""
        line += part
    return line
