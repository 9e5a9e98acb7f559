"""What a server tells the supervisor while it runs, for the teacher's `status`, and how the teacher ends its kernels.

Runs in the student's process, as the student.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Protocol

from tornado.ioloop import IOLoop, PeriodicCallback

from nblauncher.server.activity import END_KERNELS, SAVED, USED, Activity, ended_word, kernels_word

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two looks. A save or a kernel that begins to work is known that much later."""

_REPEAT = 60.0
"""Seconds after which unchanged counts are sent again: the supervisor may be another one by now."""


class Kernel(Protocol):
    """What is asked of Jupyter's manager of one kernel."""

    execution_state: str
    last_activity: datetime
    ended_by_teacher: bool

    async def signal_kernel(self, signum: int) -> None: ...


class Reporting:
    """`kernels` returns the managers of the kernels that exist now."""

    def __init__(
        self,
        activity: Activity,
        kernels: Callable[[], Iterable[Kernel]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._activity, self._kernels, self._clock = activity, kernels, clock
        self._sent, self._sent_at = "", float("-inf")
        self._is_saved = False
        self._last: datetime | None = None

    def begin(self, loop: IOLoop) -> None:
        """In the server's loop."""
        PeriodicCallback(self.look, EVERY * 1000).start()
        asyncio_loop: Any = loop.asyncio_loop  # type: ignore[attr-defined]
        asyncio_loop.add_signal_handler(END_KERNELS, lambda: asyncio_loop.create_task(self.end_kernels()))

    def saved(self, **_about: Any) -> None:
        """A hook of Jupyter's contents manager: a file was saved."""
        self._is_saved = True

    def kernels(self) -> tuple[int, int]:
        """How many there are, and how many of them are busy."""
        states = [getattr(kernel, "execution_state", "") for kernel in self._kernels()]
        return len(states), sum(state == "busy" for state in states)

    def look(self) -> None:
        """Send what changed since the last look."""
        kernels = list(self._kernels())
        word = kernels_word(*self.kernels())
        if word != self._sent or self._clock() - self._sent_at > _REPEAT:
            self._sent, self._sent_at = word, self._clock()
            self._activity.report(word)
        times = [time for kernel in kernels if (time := getattr(kernel, "last_activity", None)) is not None]
        newest = max(times, default=None)
        has_spoken = newest is not None and self._last is not None and newest > self._last
        self._last = newest or self._last
        if self._is_saved:
            self._activity.report(SAVED)
        elif self._activity.is_used or has_spoken:
            self._activity.report(USED)
        self._is_saved = self._activity.is_used = False

    async def end_kernels(self) -> int:
        """SIGKILL for every kernel and what it started. Jupyter notices within three seconds, tells the open
        notebooks, and starts new kernels for them. Returns how many there were.
        """
        count = 0
        for kernel in list(self._kernels()):
            kernel.ended_by_teacher = True
            with contextlib.suppress(OSError, RuntimeError):  # it ended by itself meanwhile
                await kernel.signal_kernel(signal.SIGKILL)
                count += 1
        log.warning("the teacher ended %d kernels", count)
        self._activity.report(ended_word(count))
        return count
