"""Talking to the person: the answer on standard output, the story on standard error, and the one question."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from nblauncher import interruption, render
from nblauncher.cli.call import Call
from nblauncher.errors import HostError, NblauncherError, RefusedError
from nblauncher.plan import Notify, Plan
from nblauncher.printable import printable, printable_lines

log = logging.getLogger(__name__)


class _Outlet(io.FileIO):
    """Standard output or error. When nobody reads it any more (`| head`, a closed terminal) the work goes on."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(content).nbytes


def outlive_readers() -> None:
    """Make this process's standard output and error such outlets."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            buffer = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True))


def tell(text: str) -> None:
    """The story: standard error, and the log."""
    log.debug("%s", text)
    story(text)


def story(text: str, *, ends_line: bool = True) -> None:
    """Standard error alone. Here, and in `answer`, whatever came from outside is escaped at the latest."""
    click.echo(printable_lines(text), err=True, nl=ends_line)


def answer(call: Call, text: str, exit_code: int, *, status: str = "ok", **more: Any) -> None:
    """The answer: standard output, as text or as the one JSON object."""
    click.echo(render.envelope(call.command, status, exit_code, **more) if call.as_json else printable_lines(text))
    sys.stdout.flush()


def show_error(call: Call, error: NblauncherError) -> None:
    story(render.problem_text(error))
    if call.as_json:
        status = "failed" if isinstance(error, HostError) else "refused"
        answer(call, "", error.exit_code, status=status, errors=list(error.problems))


def drop_answer() -> None:
    """What could not be written is not tried again, at the latest when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    sys.stdout.flush()


def confirm(call: Call, plan: Plan) -> None:
    """Show a destructive plan and ask. RefusedError without a yes, or without a terminal to ask on."""
    story(render.plan_text(call.command, plan))
    if call.yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError("this needs a confirmation and there is no terminal", "Look at the plan, then add --yes.")
    if not _is_confirmed():
        raise RefusedError("not confirmed; nothing was changed")


def _is_confirmed() -> bool:
    """Not click.confirm: its reading starts again after a signal that only is remembered."""
    while True:
        click.echo("Go on? [y/N]: ", nl=False, err=True)
        interruption.wait([sys.stdin.fileno()])
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return True
        if answer in ("", "n", "no"):
            return False


@contextmanager
def progress() -> Iterator[Notify]:
    """A bar on a terminal, lines otherwise."""
    if not sys.stderr.isatty():
        yield lambda line, done, total: story(f"[{done}/{total}] {printable(line)}")
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def notify(line: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=printable(line))

        yield notify


def terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns
