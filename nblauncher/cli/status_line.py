"""One line at the bottom of a terminal that says what a command is at, and for how long; rewritten in place.

A timer's signal rewrites it, not a thread: root's steps fork, and a fork with threads is not safe. A forked child has
no timer (fork(2)). Without a terminal, with TERM=dumb and beside the log of -v there is none.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import unicodedata
from types import FrameType

_BAR = 20
_EVERY = 1.0
_SHORT = 1.0
"""Seconds that need no number."""


class StatusLine:
    """What is shown now. `show` and `clear` do nothing where there is no terminal."""

    def __init__(self) -> None:
        self._is_on: bool | None = None
        self._words = ""
        self._share: tuple[float, int] | None = None
        self._since = 0.0
        self._descriptor, self._encoding = 2, "utf-8"

    @property
    def is_possible(self) -> bool:
        if self._is_on is None:
            self._is_on = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
            if self._is_on:
                self._descriptor, self._encoding = sys.stderr.fileno(), sys.stderr.encoding
        return self._is_on

    def turn_off(self) -> None:
        self.clear()
        self._is_on = False

    def show(self, words: str, done: float | None = None, total: int = 0) -> None:
        """`words` are escaped already. A bar if `total` is given: `done` may have a fraction."""
        if not self.is_possible:
            return
        if words != self._words:
            self._since = time.monotonic()
        is_new = not self._words
        self._words, self._share = words, None if done is None else (done, total)
        self._draw()
        if is_new:
            signal.signal(signal.SIGALRM, self._tick)
            signal.setitimer(signal.ITIMER_REAL, _EVERY, _EVERY)

    def clear(self) -> None:
        """Before anything else is printed, and at the end."""
        if self._words:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._words = ""
            self._write("\r\x1b[K")

    def _tick(self, _number: int, _frame: FrameType | None) -> None:
        """A handler of signals: no lock is taken here, no buffered stream used, and nothing raised."""
        if self._words:
            self._draw()

    def _draw(self) -> None:
        seconds = int(time.monotonic() - self._since)
        text = self._words + (f" ({seconds} s)" if seconds >= _SHORT else "")
        if self._share is not None and self._share[1]:
            done, total = self._share
            full = min(_BAR, int(_BAR * done / total))
            text = f"[{'#' * full}{'.' * (_BAR - full)}] {int(done)}/{total} {text}"
        self._write(f"\r\x1b[K{_cut(text, self._width() - 1)}")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._descriptor).columns or 80
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        """Past the buffers. Skipped when the terminal takes nothing (Ctrl-S, a link that is slow): the work goes on."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        try:
            if any(state & select.POLLOUT for _, state in poller.poll(0)):
                os.write(self._descriptor, text.encode(self._encoding, "replace"))
        except OSError:
            return


line = StatusLine()
"""The terminal has one."""


def _cut(text: str, columns: int) -> str:
    """A line that wraps could not be rewritten. Wide characters take two columns."""
    kept = []
    for character in text:
        columns -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns < 0:
            break
        kept.append(character)
    return "".join(kept)
