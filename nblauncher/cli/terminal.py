"""The terminal: the answer on standard output, the story on standard error, and the one question."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import click

from nblauncher.cli import render
from nblauncher.cli.call import Call
from nblauncher.cli.status_line import line
from nblauncher.errors import HostError, NblauncherError, RefusedError
from nblauncher.printable import printable, printable_lines
from nblauncher.system import interruption

log = logging.getLogger(__name__)

_COLOURS = {"Error:": "1;31", "Note:": "33", "problem": "1;31", "warning": "33", "ok": "32"}
_WORDS = re.compile(r"^(?:Error|Note):", re.M)
_LEVELS = re.compile(r"^(?:problem|warning|ok)(?= )", re.M)
"""Of the findings of `check`."""


class _Stream(io.FileIO):
    """Standard output or error that ignores a reader that is gone (`| head`, a closed terminal): the work continues."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(content).nbytes


def outlive_readers() -> None:
    """From now on neither standard output nor standard error fails when its reader is gone."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            buffer = io.BufferedWriter(_Stream(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True))


def tell(text: str) -> None:
    """The story: standard error, and the log."""
    log.debug("%s", text)
    story(text)


def story(text: str, *, ends_line: bool = True) -> None:
    """Standard error alone. Text from outside that is not escaped yet is escaped here and in `answer`."""
    line.clear()
    click.echo(_painted(printable_lines(text), _WORDS, sys.stderr), err=True, nl=ends_line)


def answer(call: Call, text: str, exit_code: int, *, status: str = "ok", **more: Any) -> None:
    """The answer: standard output, as text or as the one JSON object."""
    line.clear()
    if call.as_json:
        click.echo(render.envelope(call.command, status, exit_code, **more))
    else:
        shown = printable_lines(text)
        click.echo(_painted(shown, _LEVELS, sys.stdout) if call.command == "check" else shown)
    sys.stdout.flush()


def say(text: str) -> None:
    """A part of an answer that is not over yet: standard output. It is escaped here, as in `answer`."""
    click.echo(printable_lines(text))
    sys.stdout.flush()


def _painted(text: str, words: re.Pattern[str], stream: TextIO) -> str:
    """With these words in colour, on a terminal and unless NO_COLOR is set (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not stream.isatty():
        return text
    return words.sub(lambda found: f"\x1b[{_COLOURS[found[0]]}m{found[0]}\x1b[0m", text)


def show_error(call: Call, error: NblauncherError) -> None:
    story(render.problem_text(error))
    if call.as_json:
        status = "failed" if isinstance(error, HostError) else "refused"
        answer(call, "", error.exit_code, status=status, errors=list(error.problems))


def drop_answer() -> None:
    """Discard what could not be written, or the interpreter tries again when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    sys.stdout.flush()


def confirm(call: Call, plan: str, warning: str = "") -> None:
    """Show a destructive plan and ask. RefusedError without a yes, and where standard input is not a terminal."""
    story(plan)
    if call.yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError("not confirmed: stdin is not a terminal", "Review the plan, then pass --yes.")
    if warning:
        story(warning)
    if not _is_confirmed():
        raise RefusedError("not confirmed; nothing was changed")


def _is_confirmed() -> bool:
    """Not click.confirm, which continues to read after a signal if the handler only records it."""
    while True:
        click.echo("Proceed? [y/N]: ", nl=False, err=True)
        interruption.wait([sys.stdin.fileno()])
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return True
        if answer in ("", "n", "no"):
            return False


@dataclass
class Progress:
    """The steps of a plan: a bar on a terminal, else a line for each step that is done."""

    done: int = 0
    total: int = 0
    step: str = ""
    """What began last."""

    def begins(self, words: str) -> None:
        self.step = words
        line.show(printable(words), self.done, self.total)

    def is_done(self, words: str, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.tells(words)

    def tells(self, words: str, done: int = 0, total: int = 0) -> None:
        """From inside a step, of which that share is done."""
        if line.is_possible:
            share = done / total if total else 0
            line.show(printable(f"{self.step}: {done} of {total}" if total else words), self.done + share, self.total)
        else:
            story(f"[{self.done}/{self.total}] {printable(words)}")


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """While the steps of a plan are carried out."""
    try:
        yield Progress(total=total)
    finally:
        line.clear()


def works(words: str, done: int = 0, total: int = 0, /) -> None:
    """What takes a while and is not a plan: on a terminal, until something is printed."""
    line.show(printable(words), done, total)


def stops_working() -> None:
    """Clear what `works` shows, where something is printed that does not come through `story` or `answer`."""
    line.clear()


def shows_no_work() -> None:
    """From now on: the log of -v is on the same terminal."""
    line.turn_off()


def terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def terminal_height() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).lines
