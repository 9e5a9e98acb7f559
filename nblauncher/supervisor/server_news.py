"""What students' servers report about themselves, each through a pipe of its own (nblauncher.server.activity)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from nblauncher.server import activity
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.seat import Seat

_BURST = 64
_RATE = 4.0
"""Words that a server may send at once, and per second in the long run; ours sends three every two seconds."""
_READ = 4096


class News:
    """A student's process is believed about its own server only. One that sends anything else, or too much, is no
    longer read.

    `on_words` gets a seat and the words that its server sent.
    """

    def __init__(
        self,
        loop: Loop,
        on_words: Callable[[Seat, Sequence[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop, self._on_words, self._clock = loop, on_words, clock

    def listen(self, seat: Seat) -> int:
        """Read what the seat's next server reports. Returns the end of the pipe for it, which the caller closes."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        self.adopt(seat, ours)
        return theirs

    def adopt(self, seat: Seat, pipe: int) -> None:
        """Read what a server reports through this non-blocking pipe, which is closed by `hang_up`."""
        self.hang_up(seat)
        seat.news_pipe = pipe
        left, credited_at, rest = float(_BURST), self._clock(), ""

        def read() -> None:
            nonlocal left, credited_at, rest
            *words, rest = (rest + _text(pipe)).split("\n")
            now = self._clock()
            left, credited_at = min(_BURST, left + _RATE * (now - credited_at)) - len(words), now
            if not words or left < 0 or not all(map(activity.is_known, words)):
                self.hang_up(seat)
                return
            self._on_words(seat, words)

        self._loop.watch(pipe, read)

    def last_words(self, seat: Seat) -> list[str]:
        """What the server sent before it ended, which the supervisor may learn first. Closes the pipe."""
        words: list[str] = []
        if seat.news_pipe >= 0:
            with contextlib.suppress(BlockingIOError):
                words = _text(seat.news_pipe).split("\n")
        self.hang_up(seat)
        return words

    def hang_up(self, seat: Seat) -> None:
        if seat.news_pipe >= 0:
            self._loop.forget(seat.news_pipe)
            os.close(seat.news_pipe)
            seat.news_pipe = -1


def _text(pipe: int) -> str:
    return os.read(pipe, _READ).decode("ascii", errors="replace")
