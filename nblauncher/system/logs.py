"""nblauncher.log: a line for each step, with a run id, for debugging. Never a secret."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from nblauncher.printable import printable, printable_lines

_CAP = 5_000_000
_FORMAT = "%(asctime)s {run} %(process)d %(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """Escapes text that came from outside, but keeps the lines of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def start(folder: Path | None, verbosity: int) -> Path | None:
    """Log to `folder`/nblauncher.log (root's, capped at two files of 5 MB), and with -v to standard error as well.

    Without a folder (not root, or nothing set up yet) only standard error is used. Returns the log file.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    if verbosity:
        story = logging.StreamHandler(sys.stderr)
        story.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
        story.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(story)
    if folder is None or not folder.is_dir():
        root.addHandler(logging.NullHandler())
        return None
    file = folder / "nblauncher.log"
    _rotate(file)
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    file.chmod(0o600)
    formatter = _OneLine(_FORMAT.format(run=f"run={os.urandom(4).hex()}"), "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root.addHandler(handler)
    return file


def _rotate(file: Path) -> None:
    try:
        if file.stat().st_size > _CAP:
            file.rename(file.with_name(f"{file.name}.1"))
    except FileNotFoundError:
        return
