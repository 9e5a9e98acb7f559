"""Limit CPU time and memory for work on bytes that come from outside."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class TooLongError(Exception):
    """The CPU time is used up."""


@contextlib.contextmanager
def bounded(*, seconds: float, memory: int) -> Iterator[None]:
    """TooLongError after that much CPU time of this process, MemoryError beyond that many bytes more than now.

    For a process with one thread (setitimer(2) ITIMER_PROF, setrlimit(2) RLIMIT_AS).
    """

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (_least(_address_space() + memory, soft, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGESIZE")


def _least(*limits: int) -> int:
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=resource.RLIM_INFINITY)
