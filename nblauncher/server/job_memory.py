"""How much memory a student's job takes on its node, as its own server reads it. Runs as the student, without Jupyter.

It is what the job's control group is charged, as on the class's host; where Slurm makes no group that counts memory,
the proportional share (PSS) of the job's processes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nblauncher.isolation import limits

_GOOD_FOR = 30.0
"""Seconds for which a sum over processes is believed: the kernel walks all of their pages."""

_VARIABLE = "SLURM_JOB_ID"


class JobMemory:
    """`job` is the number of the caller's own job, as Slurm put it into the environment."""

    def __init__(self, job: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = os.environ.get(_VARIABLE, "") if job is None else job
        self._clock = clock
        self._sum: int | None = None
        self._summed_at = float("-inf")

    def bytes(self) -> int | None:
        """None if it is not known."""
        if not self._job.isdecimal():
            return None
        charged = limits.charged_to_job(int(self._job))
        if charged is not None:
            return charged
        if self._clock() - self._summed_at > _GOOD_FOR:
            self._sum, self._summed_at = sum(map(_proportional_share, self._pids())), self._clock()
        return self._sum

    def _pids(self) -> Iterator[str]:
        """Of the student's processes those that have the job's number in their environment."""
        wanted, uid = f"{_VARIABLE}={self._job}".encode("ascii"), os.getuid()
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                is_own = os.stat(f"/proc/{pid}").st_uid == uid
                if is_own and wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    yield pid


def _proportional_share(pid: str) -> int:
    """proc_pid_smaps(5)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
        for line in stream:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0
