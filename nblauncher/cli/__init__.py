"""The command line. The only package that prints, prompts and exits."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from nblauncher import __version__, inputs, logs, moments, receipts, render
from nblauncher.cli import foreground, talk
from nblauncher.cli.call import Call, acts_on_students, names
from nblauncher.cli.carry_out import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    Deed,
    change,
    open_accepted,
    open_session,
    students_of,
)
from nblauncher.commands import (
    appointments,
    check,
    copies,
    deadline,
    freeze,
    front_page,
    handin,
    history,
    init,
    known,
    launch,
    publishing,
    reload,
    remove,
    retrieve,
    send,
    session,
    setup,
    shutdown,
    snapshot,
    status,
)
from nblauncher.course import make_folders
from nblauncher.errors import InputError, NblauncherError
from nblauncher.host import Host, captures_lock, course_lock
from nblauncher.ledger import locked
from nblauncher.model import Roster
from nblauncher.plan import Plan, Report
from nblauncher.printable import printable

log = logging.getLogger(__name__)

EXIT_BUG = 70

_NO_FILES: dict[str, Any] = {"files": 0, "bytes": 0, "exceptions": []}


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
@click.pass_obj
def check_command(call: Call, files: tuple[Path, ...], as_json: bool) -> int:
    """Say whether a class can start here, and what to do where it cannot. Changes nothing."""
    call.command, call.files, call.as_json = "check", files, as_json
    findings = known.findings(session.caller(os.environ), call.config, files)
    is_good = check.is_good(findings)
    problems = [f"{one.subject}: {one.message}" for one in findings if one.level == "problem"]
    talk.answer(
        call,
        render.findings_text(findings),
        0 if is_good else 1,
        status="ok" if is_good else "failed",
        errors=problems,
        findings=[render.finding_entry(one) for one in findings],
    )
    return 0 if is_good else 1


cli.add_command(check_command, "doctor")


@cli.command("setup")
@acts_on_students
def setup_command(call: Call) -> int:
    """Make accounts, passwords, profile and material for every row of the roster that lacks them."""
    opened = open_session(call, needs_roster=True)
    wanted = (opened.roster or Roster()).only(students_of(opened, call))

    def make_plan(host: Host) -> Plan:
        return setup.prepare(host, wanted, opened)

    def summary(host: Host, report: Report) -> str:
        if not report.done:
            return ""
        return f"{len(report.done)} students set up. Their passwords are in {host.settings.credentials}"

    deed = Deed("set up", summary=summary, enrich=setup.student_details, touches_accounts=True, with_front_page=True)
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

    return change(
        call, opened, make_plan, Deed("brought up to date", table=table, details={**_NO_FILES, "changes": []})
    )


@cli.command("launch")
@click.option("--background", is_flag=True, help="Return when the class is ready; `shutdown` ends it.")
@click.option("--on-demand", is_flag=True, help="Start a server when its student comes (also: notebook.start).")
@click.option("--front-page-only", metavar="COURSE", hidden=True, help="What the supervisor runs when the page died.")
@acts_on_students
def launch_command(call: Call, background: bool, on_demand: bool, front_page_only: str | None) -> int:
    """Start a notebook server per student and the front page; what still runs is adopted."""
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
        watch.is_ready = not report.was_interrupted
        ready = f"{launch.served_words(report)}. Students begin at {host.frontend.front_page}"
        return f"Nothing to do: {ready}" if plans[-1].is_empty else ready

    deed = Deed("started", summary=summary, enrich=launch.student_details, with_front_page=True)
    with foreground.watching() as watch:
        exit_code = change(call, opened, make_plan, deed)
        if background or call.is_dry_run or exit_code not in (0, EXIT_PARTIAL):
            return exit_code
        return watch.keep(opened.host)


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
        return f"Nothing to do: {ready}" if plans[-1].is_empty else ready

    deed = Deed("taken in", summary=summary, enrich=launch.student_details, touches_accounts=True, with_front_page=True)
    return change(call, opened, make_plan, deed)


@cli.command("status")
@acts_on_students
def status_command(call: Call) -> int:
    """Say who is up, on what, using how much."""
    opened = open_session(call)
    session.require_root(opened.caller, "status")
    entries = status.rows(opened.host, students_of(opened, call))
    front = status.front_page_state(opened.host)
    text = f"{render.status_text(entries, talk.terminal_width())}\n{status.summary(entries, front)}"
    address = opened.host.frontend.front_page
    talk.answer(call, text, 0, students=entries, front_page=address, front_page_state=front)
    return 0


@cli.command("shutdown")
@acts_on_students
def shutdown_command(call: Call) -> int:
    """Stop the class's servers, and nobody else's process."""
    opened = open_session(call)
    wanted = students_of(opened, call)

    def make_plan(host: Host) -> Plan:
        return shutdown.prepare(host, wanted, everybody=not call.only)

    return change(call, opened, make_plan, Deed("stopped", summary=lambda _host, report: shutdown.summary(report)))


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
    opened = open_session(call)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    runs: list[retrieve.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = remove.prepare(host, wanted, names(claim), names(despite_incomplete), now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return remove.summary(runs[-1], host, report)

    return change(call, opened, make_plan, Deed("removed", summary=summary, is_destructive=True, touches_accounts=True))


@cli.command("retrieve")
@click.option("--all", "takes_all", is_flag=True, help="The whole material folder, also what nobody changed.")
@click.option("--at", "at", metavar="TIME", help='The work as it will be at "2026-11-27 17:00", of everybody at once.')
@click.option("--assignment", metavar="FOLDER", help="This folder of the material, laid out for grading.")
@click.option("--unattended", metavar="COURSE", hidden=True, help="What the supervisor runs at deadlines.")
@acts_on_students
def retrieve_command(
    call: Call, takes_all: bool, at: str | None, assignment: str | None, unattended: str | None
) -> int:
    """Bring everyone's work into a new folder of the teacher's."""
    if unattended is not None:
        return _at_deadlines(call, open_accepted(call, unattended))
    opened = open_session(call)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    if at is not None:
        return _retrieve_at(call, opened, _time(at), now, assignment or "")
    if assignment is not None:
        return _retrieve_assignment(call, opened, assignment, now)
    runs: list[retrieve.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = retrieve.prepare(host, wanted, takes_all=takes_all, now=now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return retrieve.summary(runs[-1], host, report)

    return change(call, opened, make_plan, Deed("retrieved", summary=summary, details=_NO_FILES))


@cli.command("snapshot")
@click.option("--unattended", metavar="COURSE", hidden=True, help="What the supervisor runs now and then.")
@acts_on_students
def snapshot_command(call: Call, unattended: str | None) -> int:
    """Keep what everybody's material folder holds now; `history` lists and `restore` brings back."""
    opened = open_session(call) if unattended is None else open_accepted(call, unattended)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    runs: list[snapshot.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = snapshot.prepare(host, wanted, now=now)
        runs.append(run)
        return plan

    def summary(_host: Host, report: Report) -> str:
        return snapshot.summary(runs[-1], report)

    details = {**_NO_FILES, "changed": 0}
    return change(call, opened, make_plan, Deed("kept", summary=summary, details=details))


@cli.command("history")
@click.argument("name", metavar="NAME")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def history_command(call: Call, name: str, file: str | None, as_json: bool) -> int:
    """List the snapshots of student NAME or, with FILE (below the material folder), the versions of that file."""
    call.command, call.as_json = "history", as_json
    host = _about_one(call, name)
    if file is None:
        taken = history.snapshots(host, name)
        counts = host.history.paths(name)
        more: dict[str, Any] = {"snapshots": taken, "paths": counts}
        text = render.history_text(taken, counts, talk.terminal_width())
    else:
        found = history.versions(host, name, history.checked_path(file))
        more = {"versions": found}
        text = render.versions_text(found, talk.terminal_width())
    talk.answer(call, text, 0, **more)
    return 0


@cli.command("restore")
@click.argument("name", metavar="NAME")
@click.argument("file", metavar="FILE")
@click.option(
    "--at", "at", required=True, metavar="TIME", help='Such as "2026-11-27 17:00"; the last snapshot by then.'
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def restore_command(call: Call, name: str, file: str, at: str, as_json: bool) -> int:
    """Put the version that FILE of student NAME had at a time beside the present one, never over it."""
    call.command, call.as_json = "restore", as_json
    host = _about_one(call, name)
    time = _time(at)
    with locked(course_lock(host), f"course {host.settings.course}"):
        copy = history.restore(host, name, history.checked_path(file), time)
    target = host.settings.material.target
    text = f"{name} finds {printable(file)} of {moments.words(time)} in {printable(f'{target}/{copy}')}"
    talk.answer(call, text, 0, path=f"{target}/{copy}")
    return 0


def _retrieve_assignment(call: Call, opened: session.Session, folder: str, now: datetime) -> int:
    wanted = students_of(opened, call)
    runs: list[retrieve.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = handin.prepare(host, wanted, folder, now=now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return retrieve.summary(runs[-1], host, report)

    def table(report: Report) -> str:
        return render.table(("student", folder, "files"), handin.rows(report), talk.terminal_width())

    deed = Deed("retrieved", summary=summary, table=table, details=_NO_FILES)
    return change(call, opened, make_plan, deed)


def _retrieve_at(call: Call, opened: session.Session, at: datetime, now: datetime, folder: str) -> int:
    """Leave it to the supervisor of a running class, or wait for it here."""
    session.require_root(opened.caller, "retrieve")
    host = opened.host
    make_folders(host.paths)
    added = deadline.add(host, at, folder, now)
    if appointments.renew(host):
        talk.answer(call, f"The class's work is captured at {moments.words(at)}.", 0, deadline=added.name)
        return 0
    talk.tell(f"The class does not run: waiting here until {moments.words(at)}. Ctrl-C ends the waiting.")
    return _at_deadlines(call, opened, only=added.name)


def _at_deadlines(call: Call, opened: session.Session, *, only: str = "") -> int:
    """Round after round: those that are due or, where `only` one deadline is asked for, all of its."""
    exit_codes = [0]
    seen: set[datetime] = set()
    while True:
        now = datetime.now().astimezone()
        if only:
            found = deadline.rounds(one for one in deadline.pending(opened.host)[0] if one.deadline.name == only)
        else:
            found = deadline.due(opened.host, now)
        one = next((one for one in found if one.at not in seen), None)
        if one is None:
            break
        seen.add(one.at)
        exit_codes.append(_capture_round(call, opened, one))
    if len(seen) == 0:
        talk.answer(call, "retrieve: nothing to do.", 0)
    return max(exit_codes)


def _capture_round(call: Call, opened: session.Session, one: copies.Round) -> int:
    call.only = frozenset(one.usernames)

    def make_plan(host: Host) -> Plan:
        return deadline.plan(host, one)

    def summary(host: Host, _report: Report) -> str:
        return deadline.summary(host, one)

    deed = Deed("captured", summary=summary, details=_NO_FILES, lock=captures_lock)
    return change(call, opened, make_plan, deed)


@cli.command("verify-receipt")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def verify_receipt_command(call: Call, file: Path, as_json: bool) -> int:
    """Say whether a receipt that a student shows is genuine, and what it proves."""
    call.command, call.as_json = "verify-receipt", as_json
    opened = open_session(call)
    session.require_root(opened.caller, call.command)
    reader = session.reader_of(opened.host, file.absolute(), opened.caller.person)
    content = inputs.read_as(reader, file.absolute(), most=receipts.LARGEST)
    text, about = publishing.verify(opened.host, content)
    talk.answer(call, text, 0, receipt=about)
    return 0


@cli.command("extend")
@click.argument("name", metavar="NAME")
@click.argument("length", metavar="LENGTH")
@click.option("--deadline", "which", metavar="NAME", help="Of this deadline; default: the next one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def extend_command(call: Call, name: str, length: str, which: str | None, as_json: bool) -> int:
    """Give student NAME more time: LENGTH is 15m, 2h or 1d."""
    call.command, call.as_json = "extend", as_json
    host = _about_one(call, name)
    try:
        more = moments.length(length)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="LENGTH") from None
    moment = deadline.extend(host, name, more, which)
    appointments.renew(host)
    text = f"{name} has until {moments.words(moment.at)} for {moment.deadline.name}."
    talk.answer(call, text, 0, deadline=moment.deadline.name, at=moment.at.isoformat())
    return 0


@cli.command("freeze")
@acts_on_students
def freeze_command(call: Call) -> int:
    """Let every process of the students stand still, until `thaw`. Nothing is lost, nothing can be saved."""
    opened = open_session(call)
    wanted = students_of(opened, call)
    return change(call, opened, lambda host: freeze.plan_freeze(host, wanted), Deed("frozen"))


@cli.command("thaw")
@acts_on_students
def thaw_command(call: Call) -> int:
    """Let the students' processes go on after `freeze`."""
    opened = open_session(call)
    wanted = students_of(opened, call)
    return change(call, opened, lambda host: freeze.plan_thaw(host, wanted), Deed("thawed"))


def _about_one(call: Call, name: str) -> Host:
    """The course's host, for a command about one student; InputError when there is no such student."""
    opened = open_session(call)
    session.require_root(opened.caller, call.command)
    if name not in opened.host.ledger.members(opened.settings.course):
        raise InputError(f'there is no student "{printable(name)}" in course {opened.settings.course}')
    return opened.host


def _time(text: str) -> datetime:
    try:
        return moments.parsed(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--at") from None


def main() -> None:
    """The console script `nblauncher`."""
    call = Call()
    talk.outlive_readers()
    logs.start(None, 0)
    sys.excepthook = functools.partial(_bug, call)
    try:
        exit_code = cli.main(obj=call, standalone_mode=False)
    except NblauncherError as error:
        log.error("%s", error)
        talk.show_error(call, error)
        exit_code = error.exit_code
    except click.ClickException as error:
        error.show()
        exit_code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; nothing more was changed.", err=True)
        exit_code = EXIT_INTERRUPTED
    sys.exit(exit_code)


def _bug(call: Call, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What we did not expect: the traceback goes to the log, its path to the person. Exit 70."""
    log.critical("a bug", exc_info=(kind, error, trace))
    text = "".join(traceback.format_exception(kind, error, trace))
    where = f"The traceback is in {call.log_file}." if call.log_file else text
    click.echo(f"Error: this is a bug in nblauncher ({kind.__name__}). {where}", err=True)
    if call.as_json:
        talk.answer(call, "", EXIT_BUG, status="failed", errors=[f"bug: {kind.__name__}"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_BUG)
