"""Memory and CPU time of the processes in a control group, for looks that come again and again.

Source: proc_pid_stat(5), proc_pid_smaps(5).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nblauncher.isolation import cgroups
from nblauncher.supervisor.specs import ServerReport

_TICKS = os.sysconf("SC_CLK_TCK")
_THREADS = min(4, os.cpu_count() or 1)
_GOOD_FOR = 30.0
"""Seconds for which the memory of a process that has not run since is believed."""


@dataclass(frozen=True, slots=True)
class _Known:
    start_time: int
    ticks: int
    memory: int
    at: float


class Meter:
    """Adding up a process's memory is what costs (the kernel walks all of its pages), so it is done again only for a
    process that has run meanwhile, and in threads: the kernel does not need Python's lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: dict[int, _Known] = {}
        self._clock = clock

    def usage(self, reports: Iterable[ServerReport]) -> dict[str, tuple[int, float]]:
        """For each student, memory in bytes (proportional set size) and CPU-seconds of everything alive in the group.
        Call it with all students: processes of others are forgotten.
        """
        pids = {report.username: _pids(report) for report in reports}
        with ThreadPoolExecutor(_THREADS) as pool:
            found = dict(pool.map(self._measured, (pid for theirs in pids.values() for pid in theirs)))
        self._known = {pid: known for pid, known in found.items() if known is not None}
        return {name: self._sum(theirs) for name, theirs in pids.items()}

    def _sum(self, pids: Iterable[int]) -> tuple[int, float]:
        known = [self._known[pid] for pid in pids if pid in self._known]
        return sum(one.memory for one in known), round(sum(one.ticks for one in known) / _TICKS, 2)

    def _measured(self, pid: int) -> tuple[int, _Known | None]:
        """None when the process ended meanwhile."""
        try:
            start_time, ticks = _times(pid)
            known, now = self._known.get(pid), self._clock()
            is_fresh = known is not None and known.start_time == start_time and known.ticks == ticks
            if known is None or not is_fresh or now - known.at > _GOOD_FOR:
                known = _Known(start_time, ticks, _proportional_set_size(pid), now)
        except (OSError, ValueError, IndexError):
            return pid, None
        return pid, known


def _pids(report: ServerReport) -> Sequence[int]:
    if report.group:
        return cgroups.members(report.group)
    return [report.handle.pid] if report.handle else []


def _times(pid: int) -> tuple[int, int]:
    """Start time, and CPU time in ticks."""
    with open(f"/proc/{pid}/stat", "rb") as stream:
        line = stream.read()
    # A process chooses its name, which is in brackets: the last bracket ends it.
    fields = line[line.rindex(b")") + 2 :].split()
    return int(fields[19]), int(fields[11]) + int(fields[12])


def _proportional_set_size(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
        for line in stream:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0
