"""Memory and CPU time of the processes in a control group, for looks that come again and again.

Source: proc_pid_stat(5), proc_pid_smaps(5), and those of `isolation.limits` for what a group has been charged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nblauncher.isolation import cgroups, limits
from nblauncher.isolation.cgroups import Groups, Kind
from nblauncher.supervisor.specs import ServerReport

_TICKS = os.sysconf("SC_CLK_TCK")
_THREADS = min(4, os.cpu_count() or 1)
_GOOD_FOR = 30.0
"""Seconds for which the memory of a process that has not run since is believed."""
_NO_GROUPS = Groups(Kind.NONE)


@dataclass(frozen=True, slots=True)
class _Known:
    start_time: int
    ticks: int
    memory: int
    at: float


class Meter:
    """Memory is what the kernel has charged to the student's group, which is one small file, and what counts for
    limits.memory. Where no group has been charged it is the proportional set size of each process: the kernel then
    walks all of its pages, so that is done again only for a process that has run meanwhile, and in threads, because the
    kernel does not need Python's lock.
    """

    def __init__(self, groups: Groups = _NO_GROUPS, clock: Callable[[], float] = time.monotonic) -> None:
        self._groups = groups
        self._known: dict[int, _Known] = {}
        self._clock = clock

    def usage(self, reports: Iterable[ServerReport]) -> dict[str, tuple[int, float]]:
        """For each student, memory in bytes and CPU-seconds of everything alive in the group. Call it with all
        students: processes of others are forgotten.
        """
        given = tuple(reports)
        pids = {report.username: _pids(report) for report in given}
        charged = {report.username: self._charged(report) for report in given}
        ticks = {pid: _ticks(pid) for name, theirs in pids.items() if charged[name] is not None for pid in theirs}
        walked = [pid for name, theirs in pids.items() if charged[name] is None for pid in theirs]
        self._known = self._walk(walked) if walked else {}
        return {
            name: (size, _seconds(ticks[pid] for pid in pids[name])) if size is not None else self._sum(pids[name])
            for name, size in charged.items()
        }

    def _charged(self, report: ServerReport) -> int | None:
        """None if the server is not in the group in which this host would put it now."""
        group = self._groups.of_student(report.uid)
        return limits.charged_memory(group) if report.group and report.group == str(group.path) else None

    def _walk(self, pids: Iterable[int]) -> dict[int, _Known]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_THREADS) as pool:
            return {pid: known for pid, known in pool.map(self._measured, pids) if known is not None}

    def _sum(self, pids: Iterable[int]) -> tuple[int, float]:
        known = [self._known[pid] for pid in pids if pid in self._known]
        return sum(one.memory for one in known), _seconds(one.ticks for one in known)

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


def _seconds(ticks: Iterable[int]) -> float:
    return round(sum(ticks) / _TICKS, 2)


def _ticks(pid: int) -> int:
    try:
        return _times(pid)[1]
    except (OSError, ValueError, IndexError):  # it ended meanwhile
        return 0


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
