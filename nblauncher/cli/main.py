"""The command `nblauncher`: its group of commands, and what becomes of errors."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

import click

from nblauncher import __version__
from nblauncher.cli import completion, terminal
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import EXIT_INTERRUPTED
from nblauncher.cli.help import Commands, Group
from nblauncher.errors import HostError, NblauncherError
from nblauncher.printable import printable
from nblauncher.system import interruption, logs

log = logging.getLogger(__name__)

EXIT_BUG = 70

_SHORTAGES = (
    *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
)
"""Errors of a host that is short of processes, memory, open files or disk space."""


MODULES = {
    "prepare": "init check setup",
    "roster": "roster",
    "teach": "send launch reload freeze thaw",
    "answers": "status logs restart",
    "access": "passwd lock unlock",
    "slips": "slips mail",
    "telling": "message open",
    "history": "snapshot history restore watch-disks",
    "deadlines": "deadlines extend verify-receipt",
    "collect": "retrieve",
    "grading": "grade",
    "grades": "feedback grades",
    "end": "shutdown remove",
    "moving": "export import",
    "service": "service",
    "manual": "manual",
}
"""A module of this room → its commands. It is imported when one of them is run or explained, so it imports what it
needs in its functions.
"""
ALIASES = {"doctor": "check"}


@click.group(cls=Group, commands=Commands(MODULES, ALIASES), context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The config.  [default: ./notebooks.cfg]")
@click.option("-v", "--verbose", count=True, help="Log what is done (-v) and how (-vv) to stderr.")
@click.version_option(__version__, prog_name="nblauncher")
@click.pass_obj
def cli(call: Call, config: Path | None, verbose: int) -> None:
    """Turn a spreadsheet of students into a running Jupyter classroom, and bring the work home."""
    call.config, call.verbosity = config, verbose
    if verbose:
        terminal.shows_no_work()


def main() -> None:
    """Run what was typed and exit."""
    call = Call()
    if completion.VARIABLE in os.environ:
        completion.use_own_scripts()
    terminal.outlive_readers()
    logs.start(None, 0)
    sys.excepthook = functools.partial(_bug, call)
    try:
        exit_code = _run(call)
        sys.stdout.flush()
    except OSError as error:
        terminal.drop_answer()
        shortage = _shortage(error)
        terminal.story(f"Error: cannot write the answer: {shortage.problem}. What the command did was not undone.")
        exit_code = shortage.exit_code
    terminal.stops_working()
    sys.exit(exit_code)


def _run(call: Call) -> int:
    """The exit code. OSError when the error itself cannot be written."""
    try:
        interruption.check()
        return int(cli.main(prog_name="nblauncher", obj=call, standalone_mode=False) or 0)
    except NblauncherError as error:
        log.error("%s", error)
        terminal.show_error(call, error)
        return error.exit_code
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(file=usage)
        terminal.story(usage.getvalue().expandtabs(4), ends_line=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        words = "Interrupted; nothing more was changed."
        terminal.story(words)
        if call.as_json:
            terminal.answer(call, "", EXIT_INTERRUPTED, status="failed", errors=[words])
        return EXIT_INTERRUPTED
    except OSError as error:
        log.exception("refused by the host")
        shortage = _shortage(error)
        terminal.show_error(call, shortage)
        return shortage.exit_code


def _shortage(error: OSError) -> HostError:
    """A call failed for lack of resources. Any other OSError is a bug and raised again."""
    if error.errno not in _SHORTAGES:
        raise error
    where = f" ({printable(str(error.filename))})" if error.filename else ""
    return HostError(f"{(error.strerror or '').lower()}{where}", "Free what is short, then run the command again.")


def _bug(call: Call, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception that is not expected: the traceback goes to the log, and the log's path to stderr. Exit 70."""
    terminal.stops_working()
    log.critical("a bug", exc_info=(kind, error, trace))
    text = "".join(traceback.format_exception(kind, error, trace))
    where = f"The traceback is in {call.log_file}." if call.log_file else text
    terminal.story(f"Error: this is a bug in nblauncher ({kind.__name__}). {where}")
    if call.as_json:
        terminal.answer(call, "", EXIT_BUG, status="failed", errors=[f"bug: {kind.__name__}"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_BUG)
