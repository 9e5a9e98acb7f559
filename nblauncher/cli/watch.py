"""`status --watch`: the class live, like top, until q or Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from nblauncher.cli import class_table, terminal
from nblauncher.commands.running import status
from nblauncher.commands.running.status import Facts, View
from nblauncher.commands.running.usage import Meter
from nblauncher.errors import HostError, RefusedError
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.system import interruption

_KEYS = {"n": "name", "m": "memory", "c": "cpu", "i": "idle"}
_DOWN, _UP = ("\x1b[6~", " ", "\x1b[B", "j"), ("\x1b[5~", "b", "\x1b[A", "k")
_QUIT = ("q", "Q", "\x04")

EVERY = 2.0
"""Seconds between two looks."""
_FACTS_EVERY = 30.0
"""Seconds between two looks into the ledgers: deadlines, disks, history."""

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, without cursor and wrapped lines."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HELP = "n name  m memory  c cpu  i idle   space b page   q quit"


def watch(host: Host, usernames: Sequence[str], sort: str) -> int:
    """Show the class until the teacher ends it, or the terminal is gone. RefusedError without a terminal."""
    _require_terminal()
    watching = _Watching(host, usernames, sort, status.meter_of(host))
    with _screen(), contextlib.suppress(KeyboardInterrupt):
        while True:
            watching.look()
            until = time.monotonic() + EVERY
            while (left := until - time.monotonic()) > 0:
                watching.draw()
                if interruption.wait([sys.stdin.fileno()], left) and not watching.press(_typed()):
                    return 0
    return 0


@dataclass
class _Watching:
    host: Host
    usernames: Sequence[str]
    sort: str
    _meter: Meter
    top: int = 0
    """The first student on the screen."""
    view: View | None = None
    trouble: str = ""
    shares: dict[str, float] = field(default_factory=dict)
    _facts: Facts | None = None
    _facts_at: float = 0.0
    _looked_at: float = 0.0

    def look(self) -> None:
        """A class that ends, or begins, while it is watched is no error."""
        before, then, now = self.view, self._looked_at, time.monotonic()
        try:
            if self._facts is None or now - self._facts_at > _FACTS_EVERY:
                self._facts, self._facts_at = status.gather(self.host, _now()), now
            self.view = status.look(self.host, self.usernames, _now(), facts=self._facts, meter=self._meter)
        except HostError as error:
            self.trouble = printable(error.problem)
            return
        self.trouble, self._looked_at = "", now
        self.shares = _shares(before, self.view, now - then) if before is not None else {}

    def press(self, keys: Sequence[str]) -> bool:
        """Act on what was typed; False to end. No key at all: the terminal is gone."""
        for key in keys:
            if key in _QUIT:
                return False
            self.sort = _KEYS.get(key, self.sort)
            page = max(1, terminal.terminal_height() - 6)
            step = 1 if key in ("\x1b[A", "\x1b[B", "j", "k") else page
            self.top += step if key in _DOWN else -step if key in _UP else 0
        last = max(0, len(self.view.entries) - 1) if self.view else 0
        self.top = min(max(0, self.top), last)
        return bool(keys)

    def draw(self) -> None:
        lines = self.lines(terminal.terminal_width(), terminal.terminal_height())
        sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")
        sys.stdout.flush()

    def lines(self, width: int, height: int) -> list[str]:
        now = _now()
        title = f"{self.host.settings.course}  {now:%H:%M:%S}  sorted by {self.sort}"
        if self.view is None:
            return [title, self.trouble or "no answer yet"]
        cpu = class_table.cpu_column(self.shares)
        entries = class_table.order(self.view.entries, self.sort, self.shares)
        head, *rows = class_table.table(entries[self.top :], width, now, cpu=cpu)
        above = [title, *class_table.head(self.view, now), self.trouble, f"\x1b[7m{head:{width}}\x1b[0m"]
        words = status.summary(self.view.entries, self.view.front_page)
        below = [words, *filter(None, [printable(self.view.kernels)]), _HELP]
        above = [line for line in above if line]
        room = max(0, height - len(above) - len(below))
        return [*above, *rows[:room], *below][:height]


def _shares(before: View, after: View, elapsed: float) -> dict[str, float]:
    """CPU use of each student between two looks, in percent of one processor."""
    then: Mapping[str, float] = {one["username"]: one["cpu_seconds"] or 0.0 for one in before.entries}
    return {
        one["username"]: max(0.0, 100 * (one["cpu_seconds"] - then.get(one["username"], 0.0)) / max(elapsed, 0.1))
        for one in after.entries
        if one["cpu_seconds"] is not None
    }


def _now() -> datetime:
    return datetime.now().astimezone()


def _require_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise RefusedError("--watch needs a terminal", "Use `nblauncher status`, with --json in a script.")


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """The terminal gives single keys and shows none; afterwards it is as before, whatever happens."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    mode = termios.tcgetattr(keyboard)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    mode[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell with this screen
    try:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, mode)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _typed() -> list[str]:
    """The keys typed; an arrow or a page key is one. None: the terminal is gone."""
    with contextlib.suppress(OSError):
        text = os.read(sys.stdin.fileno(), 64).decode("ascii", errors="replace")
        keys = []
        while text:
            length = next((len(key) for key in (*_DOWN, *_UP) if len(key) > 1 and text.startswith(key)), 1)
            keys.append(text[:length])
            text = text[length:]
        return keys
    return []
