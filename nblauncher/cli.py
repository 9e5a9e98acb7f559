"""The command line. The only module that prints, prompts and exits."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from nblauncher import __version__, logs, render
from nblauncher.commands import session as sessions
from nblauncher.commands import setup
from nblauncher.commands.session import Session
from nblauncher.course import make_folders
from nblauncher.errors import HostError, InputError, NblauncherError, RefusedError
from nblauncher.host import Host, course_lock, host_lock
from nblauncher.ledger import locked
from nblauncher.model import Roster
from nblauncher.plan import Notify, Plan, Report, apply
from nblauncher.printable import printable

log = logging.getLogger(__name__)

EXIT_PARTIAL = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


@dataclass
class Call:
    """What was asked for on the command line."""

    config: Path | None = None
    verbosity: int = 0
    command: str = ""
    files: tuple[Path, ...] = ()
    only: frozenset[str] = frozenset()
    is_dry_run: bool = False
    as_json: bool = False
    yes: bool = False
    log_file: Path | None = None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The config; default: ./notebooks.cfg.")
@click.option("-v", "--verbose", count=True, help="Tell what is done (-v) and how (-vv) on standard error.")
@click.version_option(__version__, prog_name="nblauncher")
@click.pass_obj
def cli(call: Call, config: Path | None, verbose: int) -> None:
    """Turn a spreadsheet of students into a running Jupyter classroom, and bring the work home."""
    call.config, call.verbosity = config, verbose


def acts_on_students(function: Callable[..., int]) -> Callable[..., int]:
    """The arguments and options shared by the commands that act on students."""

    @click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[STUDENTS.CSV] [CONFIG]")
    @click.option("--only", multiple=True, metavar="NAME[,NAME...]", help="Act on these students only; repeatable.")
    @click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @click.pass_context
    @functools.wraps(function)
    def command(
        context: click.Context,
        /,
        files: tuple[Path, ...],
        only: tuple[str, ...],
        is_dry_run: bool,
        as_json: bool,
        yes: bool,
        **more: Any,
    ) -> int:
        call: Call = context.obj
        call.command = context.info_name or ""
        call.files, call.is_dry_run, call.as_json, call.yes = files, is_dry_run, as_json, yes
        call.only = frozenset(name.strip() for text in only for name in text.split(",") if name.strip())
        return function(call, **more)

    return command


@cli.command("setup")
@acts_on_students
def setup_command(call: Call) -> int:
    """Make accounts, passwords, profile and material for every row of the roster that lacks them."""
    session = _open(call, needs_roster=True)

    def make_plan(host: Host) -> Plan:
        return setup.prepare(host, _wanted_roster(session, call), session)

    return _change(call, session, make_plan, deed="set up", enrich=setup.student_details)


# Carrying out a plan.


def _change(
    call: Call,
    session: Session,
    make_plan: Callable[[Host], Plan],
    *,
    deed: str,
    enrich: Callable[[Host, Report], dict[str, dict[str, Any]]] = lambda _host, _report: {},
    is_destructive: bool = False,
) -> int:
    """read → survey → plan → (ask) → lock → survey → plan → apply → report."""
    host = session.host
    plan = make_plan(host)
    if call.is_dry_run:
        _answer(call, render.plan_text(call.command, plan), 0, plan=[step.describe() for step in plan.steps])
        return 0
    sessions.require_root(session.caller, call.command)
    for note in plan.notes:
        _tell(call, f"Note: {printable(note)}")
    if is_destructive and not plan.is_empty:
        _confirm(call, plan)
    if not plan.is_empty:
        make_folders(host.paths)
        call.log_file = logs.start(host.paths.logs, call.verbosity)
    with _locks(host) as locks, _stoppable():
        confirmed, host = plan, dataclasses.replace(host, locks=locks)
        plan = make_plan(host)
        if is_destructive and [s.describe() for s in plan.steps] != [s.describe() for s in confirmed.steps]:
            raise RefusedError("the host changed while you were asked; nothing was done", "Run the command again.")
        report = Report.of(_students_of(session, call))
        with _progress(call) as notify:
            apply(plan, host, report, notify)
    for username, details in enrich(host, report).items():
        if username in report.students:
            report[username].details.update(details)
    return _report(call, plan, report, deed)


def _report(call: Call, plan: Plan, report: Report, deed: str) -> int:
    exit_code, status = 0, "ok"
    if report.was_interrupted:
        exit_code, status = EXIT_INTERRUPTED, "partial"
    elif report.is_partial:
        nothing_done = not report.done and len(report.failed) == len(report.students)
        exit_code, status = (1, "failed") if nothing_done else (EXIT_PARTIAL, "partial")
    trouble = render.failures_text(report, deed, f"Run `nblauncher {call.command}` again when that is mended.")
    exceptions = render.exceptions_text(report)
    if not call.as_json:
        for text in (exceptions, trouble):
            if text:
                click.echo(text, err=True)
    summary = f"{call.command}: nothing to do." if plan.is_empty else f"{len(report.done)} students {deed}."
    if report.was_interrupted:
        summary = f"Interrupted. {summary} Run `nblauncher {call.command}` again to go on."
    errors = [f"{student.username}: {student.error}" for student in report.failed] + report.errors
    students = [render.student_entry(student) for student in report.students.values()]
    _answer(call, summary, exit_code, status=status, students=students, errors=errors)
    return exit_code


def _open(call: Call, *, needs_roster: bool) -> Session:
    """Inputs and host; from here on there is a log."""
    session = sessions.open_session(sessions.caller(os.environ), call.config, call.files, needs_roster=needs_roster)
    is_root = session.caller.is_root
    call.log_file = logs.start(session.host.paths.logs if is_root else None, call.verbosity)
    log.info("nblauncher %s %s for course %s", __version__, call.command, session.settings.course)
    return session


def _students_of(session: Session, call: Call) -> tuple[str, ...]:
    """Whom the command is about: the roster when there is one, else the course's students; within --only."""
    known = session.roster.usernames if session.roster else tuple(session.host.ledger.members(session.settings.course))
    unknown = sorted(call.only - frozenset(known))
    if unknown:
        raise InputError([f'--only: there is no student "{printable(name)}"' for name in unknown])
    return tuple(name for name in known if not call.only or name in call.only)


def _wanted_roster(session: Session, call: Call) -> Roster:
    return (session.roster or Roster()).only(_students_of(session, call))


@contextmanager
def _locks(host: Host) -> Iterator[tuple[int, ...]]:
    with ExitStack() as stack:
        yield (
            stack.enter_context(locked(course_lock(host), f"course {host.settings.course}")),
            stack.enter_context(locked(host_lock(host), "this host's accounts")),
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends a run like Ctrl-C: after the step in hand, with a report."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


# Talking to the person.


def _tell(call: Call, text: str) -> None:
    """The story: standard error."""
    log.info("%s", text)
    click.echo(text, err=True)


def _answer(call: Call, text: str, exit_code: int, *, status: str = "ok", **more: Any) -> None:
    """The answer: standard output, as text or as the one JSON object."""
    click.echo(render.envelope(call.command, status, exit_code, **more) if call.as_json else text)


def _confirm(call: Call, plan: Plan) -> None:
    click.echo(render.plan_text(call.command, plan), err=True)
    if call.yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError("this needs a confirmation and there is no terminal", "Look at the plan, then add --yes.")
    if not click.confirm("Go on?", err=True):
        raise RefusedError("not confirmed; nothing was changed")


@contextmanager
def _progress(call: Call) -> Iterator[Notify]:
    """A bar on a terminal, lines otherwise."""
    if not sys.stderr.isatty():
        yield lambda line, done, total: click.echo(f"[{done}/{total}] {printable(line)}", err=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def notify(line: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=printable(line))

        yield notify


def _terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def main() -> None:
    """The console script `nblauncher`."""
    call = Call()
    sys.excepthook = functools.partial(_bug, call)
    try:
        exit_code = cli.main(obj=call, standalone_mode=False)
    except NblauncherError as error:
        log.error("%s", error)
        _show_error(call, error)
        exit_code = error.exit_code
    except click.ClickException as error:
        error.show()
        exit_code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; nothing more was changed.", err=True)
        exit_code = EXIT_INTERRUPTED
    sys.exit(exit_code)


def _show_error(call: Call, error: NblauncherError) -> None:
    click.echo(render.problem_text(error), err=True)
    if call.as_json:
        status = "failed" if isinstance(error, HostError) else "refused"
        _answer(call, "", error.exit_code, status=status, errors=list(error.problems))


def _bug(call: Call, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What we did not expect: the traceback goes to the log, its path to the person. Exit 70."""
    text = "".join(traceback.format_exception(kind, error, trace))
    log.critical("bug: %s", text)
    where = f"The traceback is in {call.log_file}." if call.log_file else text
    click.echo(f"Error: this is a bug in nblauncher ({kind.__name__}). {where}", err=True)
    if call.as_json:
        _answer(call, "", EXIT_BUG, status="failed", errors=[f"bug: {kind.__name__}"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_BUG)
