"""The command line. The only package that prints, prompts and exits."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from nblauncher import __version__, interruption, logs, render
from nblauncher.cli import deadlines, foreground, history, service, talk
from nblauncher.cli.asked import time_of
from nblauncher.cli.call import Call, acts_on_students, names
from nblauncher.cli.carry_out import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    NO_FILES,
    NO_MATERIAL,
    NO_SERVER,
    STOPPED,
    Deed,
    change,
    open_accepted,
    open_session,
    students_of,
)
from nblauncher.commands import (
    check,
    front_page,
    init,
    known,
    launch,
    reload,
    remove,
    retrieve,
    send,
    session,
    setup,
    shutdown,
    status,
    trial,
)
from nblauncher.errors import HostError, NblauncherError
from nblauncher.host import Host
from nblauncher.model import Roster
from nblauncher.plan import Plan, Report
from nblauncher.printable import printable

log = logging.getLogger(__name__)

EXIT_BUG = 70

_SHORTAGES = (
    *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
)
"""What a host says that is short of processes, memory, open files or disk."""

KERNELS_LOAD = 20.0
"""Seconds that `launch` waits at most for what the kernels' fork server has to say; by then students are served."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The config; default: ./notebooks.cfg.")
@click.option("-v", "--verbose", count=True, help="Tell what is done (-v) and how (-vv) on standard error.")
@click.version_option(__version__, prog_name="nblauncher")
@click.pass_obj
def cli(call: Call, config: Path | None, verbose: int) -> None:
    """Turn a spreadsheet of students into a running Jupyter classroom, and bring the work home."""
    call.config, call.verbosity = config, verbose


@cli.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.pass_obj
def init_command(call: Call, folder: Path) -> int:
    """Write a commented notebooks.cfg and students.csv into FOLDER; never overwrites."""
    call.command = "init"
    who = session.caller(os.environ)
    written = init.write_samples(folder.absolute(), who.person if who.is_root else None)
    talk.answer(call, "\n".join(f"wrote {path}" for path in written), 0)
    return 0


@cli.command("check")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[STUDENTS.CSV] [CONFIG]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option("--security", is_flag=True, help="Attack a throw-away student, beside the class that runs.")
@click.pass_obj
def check_command(call: Call, files: tuple[Path, ...], as_json: bool, security: bool) -> int:
    """Say whether a class can start here, and what to do where it cannot. Changes nothing."""
    call.command, call.files, call.as_json = "check", files, as_json
    if security:
        opened = open_session(call)
        session.require_root(opened.caller, "check --security")
        findings = trial.findings(opened.host)
        verdict = trial.verdict(findings)
    else:
        who = session.caller(os.environ)
        findings = known.findings(who, call.config, files)
        verdict = check.verdict(findings, is_root=who.is_root)
    is_good = check.is_good(findings)
    problems = [f"{one.subject}: {one.message}" for one in findings if one.level == "problem"]
    talk.answer(
        call,
        f"{render.findings_text(findings)}\n\n{verdict}",
        0 if is_good else 1,
        status="ok" if is_good else "failed",
        errors=problems,
        findings=[render.finding_entry(one) for one in findings],
        verdict=verdict,
    )
    return 0 if is_good else 1


cli.add_command(check_command, "doctor")


@cli.command("setup")
@click.option("--take-over", is_flag=True, help="This config takes the place of the one that the course was made with.")
@acts_on_students
def setup_command(call: Call, take_over: bool) -> int:
    """Make accounts, passwords, profile and material for every row of the roster that lacks them."""
    opened = open_session(call, needs_roster=True, takes_over=take_over)
    wanted = (opened.roster or Roster()).only(students_of(opened, call))

    def make_plan(host: Host) -> Plan:
        return setup.prepare(host, wanted, opened)

    def summary(host: Host, report: Report) -> str:
        if not report.done:
            return ""
        who = "1 student" if len(report.done) == 1 else f"{len(report.done)} students"
        return f"{who} set up. The passwords are in {host.settings.credentials}"

    deed = Deed(
        "set up",
        summary=summary,
        enrich=setup.student_details,
        details={"uid": None, "home": None, "port": None, "url": None, **NO_MATERIAL},
        touches_accounts=True,
        with_front_page=True,
    )
    return change(call, opened, make_plan, deed)


@cli.command("send")
@click.option("--restore-deleted", is_flag=True, help="Also put back what a student had and deleted.")
@click.option("--only-new", is_flag=True, help="Only files that a student never had; what is there stays as it is.")
@acts_on_students
def send_command(call: Call, restore_deleted: bool, only_new: bool) -> int:
    """Put new and corrected material into every home; what students wrote is kept, and merged with it."""
    if restore_deleted and only_new:
        raise click.UsageError("--restore-deleted and --only-new do not go together")
    opened = open_session(call)
    wanted = students_of(opened, call)

    def make_plan(host: Host) -> Plan:
        return send.prepare(host, wanted, restores_deleted=restore_deleted, only_new=only_new)

    def table(report: Report) -> str:
        return render.changes_text(report, talk.terminal_width())

    return change(call, opened, make_plan, Deed("brought up to date", table=table, details=NO_MATERIAL))


@cli.command("launch")
@click.option("--background", is_flag=True, help="Return when the class is ready; `shutdown` ends it.")
@click.option("--on-demand", is_flag=True, help="Start a server when its student comes (also: notebook.start).")
@click.option("--front-page-only", metavar="COURSE", hidden=True, help="What the supervisor runs when the page died.")
@click.option("--service", "service_of", metavar="COURSE", hidden=True, help="What systemd runs.")
@acts_on_students
def launch_command(
    call: Call, background: bool, on_demand: bool, front_page_only: str | None, service_of: str | None
) -> int:
    """Start a notebook server per student and the front page; what still runs is adopted."""
    if service_of is not None:
        return service.serve(call, service_of)
    if front_page_only is not None:
        front_page.revive(open_accepted(call, front_page_only).host)
        return 0
    opened = open_session(call)
    wanted = students_of(opened, call)
    plans: list[Plan] = []

    def make_plan(host: Host) -> Plan:
        plans.append(launch.prepare(host, wanted, opened.contents, on_demand=on_demand))
        return plans[-1]

    def summary(host: Host, report: Report) -> str:
        ready = f"{launch.served_words(report)}. Students begin at {host.frontend.front_page}"
        return f"Nothing to do: {ready}" if plans[-1].is_empty else ready + _about_kernels(host)

    deed = Deed("started", summary=summary, enrich=launch.student_details, details=NO_SERVER, with_front_page=True)
    interruption.outlive_hangups()
    exit_code = change(call, opened, make_plan, deed)
    if background or call.is_dry_run or exit_code not in (0, EXIT_PARTIAL):
        return exit_code
    return foreground.keep(opened.host)


def _about_kernels(host: Host) -> str:
    kernels = status.kernels_words(host, KERNELS_LOAD)
    return f"\nNote: {printable(kernels)}" if kernels else ""


@cli.command("reload")
@acts_on_students
def reload_command(call: Call) -> int:
    """Bring what is new in roster and config into the running class; running servers are left alone."""
    opened = open_session(call, needs_roster=True)
    wanted = (opened.roster or Roster()).only(students_of(opened, call))
    plans: list[Plan] = []

    def make_plan(host: Host) -> Plan:
        plans.append(reload.prepare(host, wanted, opened))
        return plans[-1]

    def summary(host: Host, report: Report) -> str:
        ready = f"{launch.served_words(report)}. Students begin at {host.frontend.front_page}"
        return f"Nothing to do: {ready}" if plans[-1].is_empty else ready + _about_kernels(host)

    deed = Deed(
        "taken in",
        summary=summary,
        enrich=launch.student_details,
        details={**NO_SERVER, **NO_MATERIAL},
        touches_accounts=True,
        with_front_page=True,
    )
    return change(call, opened, make_plan, deed)


@cli.command("status")
@acts_on_students
def status_command(call: Call) -> int:
    """Say who is up, on what, using how much."""
    opened = open_session(call)
    session.require_root(opened.caller, "status")
    entries = status.rows(opened.host, students_of(opened, call), datetime.now().astimezone())
    front = status.front_page_state(opened.host)
    kernels = status.kernels_words(opened.host)
    text = f"{render.status_text(entries, talk.terminal_width())}\n{status.summary(entries, front)}"
    text += f"\n{printable(kernels)}" if kernels else ""
    address = opened.host.frontend.front_page
    talk.answer(call, text, 0, students=entries, front_page=address, front_page_state=front, kernels=kernels)
    return 0


@cli.command("shutdown")
@acts_on_students
def shutdown_command(call: Call) -> int:
    """Stop the class's servers, and nobody else's process."""
    opened = open_session(call)
    wanted = students_of(opened, call)

    def make_plan(host: Host) -> Plan:
        return shutdown.prepare(host, wanted, everybody=not call.only)

    def summary(_host: Host, report: Report) -> str:
        return shutdown.summary(report)

    deed = Deed("stopped", summary=summary, enrich=shutdown.student_details, details=STOPPED)
    return change(call, opened, make_plan, deed)


@cli.command("remove")
@click.option("--claim", multiple=True, metavar="NAME[,NAME...]", help="This account, changed by hand, is ours.")
@click.option(
    "--despite-incomplete",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Delete this student's home although not everything in it could be retrieved.",
)
@acts_on_students
def remove_command(call: Call, claim: tuple[str, ...], despite_incomplete: tuple[str, ...]) -> int:
    """Retrieve and verify whole homes, then delete what setup made."""
    claimed, despite = names("--claim", claim), names("--despite-incomplete", despite_incomplete)
    opened = open_session(call)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    runs: list[retrieve.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = remove.prepare(host, wanted, claimed, despite, now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return remove.summary(runs[-1], host, report)

    gone: dict[str, Any] = {"deleted": [], "schedules": [], "left": [], "not_searched": []}
    details = {**NO_FILES, **STOPPED, **gone}
    deed = Deed("removed", summary=summary, details=details, is_destructive=True, touches_accounts=True)
    return change(call, opened, make_plan, deed)


@cli.command("retrieve")
@click.option("--all", "takes_all", is_flag=True, help="The whole material folder, also what nobody changed.")
@click.option("--at", "at", metavar="TIME", help='The work as it will be at "2026-11-27 17:00", of everybody at once.')
@click.option("--assignment", metavar="FOLDER", help="This folder of the material, laid out for grading.")
@click.option("--cancel", "cancelled", metavar="NAME", help="Take back a --at: its folder, or the name it answered.")
@click.option("--unattended", metavar="COURSE", hidden=True, help="What the supervisor runs at deadlines.")
@acts_on_students
def retrieve_command(
    call: Call,
    takes_all: bool,
    at: str | None,
    assignment: str | None,
    cancelled: str | None,
    unattended: str | None,
) -> int:
    """Bring everyone's work into a new folder of the teacher's."""
    if unattended is not None:
        return deadlines.at_deadlines(call, open_accepted(call, unattended))
    if call.only and (at is not None or cancelled is not None):
        raise click.UsageError("--at and --cancel are about everybody: --only does not go with them")
    opened = open_session(call)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    if cancelled is not None:
        return deadlines.cancel(call, opened, cancelled)
    if at is not None:
        return deadlines.retrieve_at(call, opened, time_of(at), now, assignment or "")
    if assignment is not None:
        return deadlines.retrieve_assignment(call, opened, assignment, now)
    runs: list[retrieve.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = retrieve.prepare(host, wanted, takes_all=takes_all, now=now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return retrieve.summary(runs[-1], host, report)

    def table(report: Report) -> str:
        left_out = render.exceptions_text(report)
        if not runs[-1].folder or not (runs[-1].is_new or left_out):
            return ""
        return "\n\n".join(filter(None, (render.retrieved_text(report, talk.terminal_width()), left_out)))

    details = {**NO_FILES, "changed": None, "gone": None, "since": None}
    return change(call, opened, make_plan, Deed("retrieved", summary=summary, table=table, details=details))


for command in (
    history.snapshot_command,
    history.watch_disks_command,
    service.service_command,
    history.history_command,
    history.restore_command,
    deadlines.deadlines_command,
    deadlines.verify_receipt_command,
    deadlines.extend_command,
    deadlines.freeze_command,
    deadlines.thaw_command,
):
    cli.add_command(command)


def main() -> None:
    """Run what was typed and exit."""
    call = Call()
    talk.outlive_readers()
    logs.start(None, 0)
    sys.excepthook = functools.partial(_bug, call)
    try:
        exit_code = _run(call)
        sys.stdout.flush()
    except OSError as error:
        talk.drop_answer()
        shortage = _shortage(error)
        talk.story(f"Error: the answer cannot be written: {shortage.problem}. What was done stays done.")
        exit_code = shortage.exit_code
    sys.exit(exit_code)


def _run(call: Call) -> int:
    """The exit code. OSError when not even the error can be answered."""
    try:
        interruption.check()
        return int(cli.main(prog_name="nblauncher", obj=call, standalone_mode=False) or 0)
    except NblauncherError as error:
        log.error("%s", error)
        talk.show_error(call, error)
        return error.exit_code
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(file=usage)
        talk.story(usage.getvalue(), ends_line=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        words = "Interrupted; nothing more was changed."
        talk.story(words)
        if call.as_json:
            talk.answer(call, "", EXIT_INTERRUPTED, status="failed", errors=[words])
        return EXIT_INTERRUPTED
    except OSError as error:
        log.exception("the host said no")
        shortage = _shortage(error)
        talk.show_error(call, shortage)
        return shortage.exit_code


def _shortage(error: OSError) -> HostError:
    """The host said no, wherever that was. Any other OSError is a bug and raised again."""
    if error.errno not in _SHORTAGES:
        raise error
    where = f" ({printable(str(error.filename))})" if error.filename else ""
    return HostError(f"{(error.strerror or '').lower()}{where}", "Make room, and run the command again.")


def _bug(call: Call, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What we did not expect: the traceback goes to the log, its path to the person. Exit 70."""
    log.critical("a bug", exc_info=(kind, error, trace))
    text = "".join(traceback.format_exception(kind, error, trace))
    where = f"The traceback is in {call.log_file}." if call.log_file else text
    talk.story(f"Error: this is a bug in nblauncher ({kind.__name__}). {where}")
    if call.as_json:
        talk.answer(call, "", EXIT_BUG, status="failed", errors=[f"bug: {kind.__name__}"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_BUG)
