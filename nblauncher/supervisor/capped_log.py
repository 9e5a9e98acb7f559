"""One capped log per student's server. The student writes to a pipe; what arrives here is escaped, counted and cut.

Nothing that a student writes can fill the disk, move the cursor of a reader's terminal, or keep the supervisor busy.
"""

from __future__ import annotations

import codecs
import logging
import os
import time
from collections import deque
from pathlib import Path

from nblauncher.printable import printable
from nblauncher.supervisor.loop import Loop, Timer

log = logging.getLogger(__name__)

CAP = 1_000_000
"""Bytes of a log; there is one older file (`.1`) beside it."""

BURST = 256_000
RATE = 32_000
"""Bytes per second that are kept in the long run; the rest is dropped, with a note."""

_PART = 65_536
_PAUSE = 0.05
_LAST_LINES = 20
_LONGEST_LINE = 4_096


class CappedLog:
    """Drains the reading end of a server's output into its log file. `close` when the server is gone."""

    def __init__(self, loop: Loop, pipe: int, file: Path) -> None:
        os.set_blocking(pipe, False)
        self.inode = os.fstat(pipe).st_ino
        self._loop, self._pipe, self._file = loop, pipe, file
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._line = ""
        self._credit, self._credited_at = float(BURST), time.monotonic()
        self._dropped = 0
        self.is_flooded = False
        """At least once output came faster than it is kept."""
        self._pause: Timer | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._out = _open(file)
        self._size = os.fstat(self._out).st_size
        loop.watch(pipe, self._drain)

    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._last_lines) + ((printable(self._line),) if self._line else ())

    def close(self) -> None:
        """Read what is left, at most a pipe's worth, and close the log."""
        if self._pipe < 0:
            return
        self._loop.forget(self._pipe)
        if self._pause is not None:
            self._pause.cancel()
        for _ in range(16):
            try:
                part = os.read(self._pipe, _PART)
            except BlockingIOError:
                break
            if not part:
                break
            self._take(part)
        self._end_line()
        self._say_dropped()
        os.close(self._pipe)
        os.close(self._out)
        self._pipe = -1

    def _drain(self) -> None:
        try:
            part = os.read(self._pipe, _PART)
        except BlockingIOError:
            return
        if not part:
            # Every writer closed it. The server may live on without output: its end shows elsewhere.
            self._loop.forget(self._pipe)
            return
        self._take(part)
        if self._credit <= 0:
            # A flood: read on a little later, so that other seats get their turn and the flood costs little.
            self._loop.forget(self._pipe)
            self._pause = self._loop.later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.watch(self._pipe, self._drain)

    def _take(self, part: bytes) -> None:
        now = time.monotonic()
        self._credit = min(float(BURST), self._credit + (now - self._credited_at) * RATE)
        self._credited_at = now
        if self._credit <= 0:
            self._dropped += len(part)
            self.is_flooded = True
            return
        self._credit -= len(part)
        self._say_dropped()
        *lines, self._line = (self._line + self._decoder.decode(part)).split("\n")
        if len(self._line) > _LONGEST_LINE:
            lines.append(self._line)
            self._line = ""
        self._write(lines)

    def _end_line(self) -> None:
        if self._line:
            line, self._line = self._line, ""
            self._write([line])

    def _say_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._write([f"[nblauncher: {dropped} bytes of output came too fast and were left out here]"])

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        shown = [printable(line.rstrip("\r")) for line in lines]
        self._last_lines.extend(line[:_LONGEST_LINE] for line in shown[-_LAST_LINES:])
        data = "".join(f"{line}\n" for line in shown).encode("utf-8", "backslashreplace")
        try:
            if self._size + len(data) > CAP:
                self._rotate()
            self._size += os.write(self._out, data[:CAP])
        except OSError:
            # A full disk must not stop the class; the last lines are still in memory.
            return

    def _rotate(self) -> None:
        os.replace(self._file, f"{self._file}.1")
        new = _open(self._file)
        os.close(self._out)
        self._out, self._size = new, 0


def _open(file: Path) -> int:
    """The log for appending. A full disk must not keep a server from starting: its output then goes nowhere."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(file, flags, 0o600)
    except OSError as error:
        log.warning("cannot open %s: %s", file, error.strerror)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
