"""What `retrieve` does at deadlines and for grading; verify-receipt, extend, freeze, thaw."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from nblauncher import inputs, moments, receipts, render
from nblauncher.cli import talk
from nblauncher.cli.asked import about_one
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import NO_FILES, Deed, change, open_session, students_of
from nblauncher.commands import (
    appointments,
    copies,
    deadline,
    folders,
    freeze,
    handin,
    listing,
    publishing,
    retrieve,
    session,
)
from nblauncher.course import make_folders
from nblauncher.host import Host, captures_lock
from nblauncher.plan import Plan, Report


def retrieve_assignment(call: Call, opened: session.Session, folder: str, now: datetime) -> int:
    wanted = students_of(opened, call)
    runs: list[retrieve.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = handin.prepare(host, wanted, folder, now=now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return retrieve.summary(runs[-1], host, report)

    def table(report: Report) -> str:
        rows = render.table(("student", folder, "files"), handin.rows(report), talk.terminal_width())
        left_out = render.exceptions_text(report)
        return f"{rows}\n\n{left_out}" if left_out else rows

    deed = Deed("retrieved", summary=summary, table=table, details=NO_FILES)
    return change(call, opened, make_plan, deed)


def retrieve_at(call: Call, opened: session.Session, at: datetime, now: datetime, folder: str) -> int:
    """Leave it to the supervisor of a running class, or wait for it here."""
    session.require_root(opened.caller, "retrieve")
    host = opened.host
    make_folders(host.paths)
    added = deadline.add(host, at, folder, now)
    if added.folder and added.folder not in folders.known(host).folders:
        talk.tell(f"Note: {folders.absent(added.name, added.folder)}")
    if appointments.renew(host):
        talk.answer(call, f"The class's work is captured at {moments.words(at)}.", 0, deadline=added.name)
        return 0
    talk.tell(f"The class does not run: waiting here until {moments.words(at)}. Ctrl-C ends the waiting.")
    return at_deadlines(call, opened, only=added.name)


def at_deadlines(call: Call, opened: session.Session, *, only: str = "") -> int:
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

    deed = Deed("captured", summary=summary, details=NO_FILES, lock=captures_lock)
    return change(call, opened, make_plan, deed)


@click.command("deadlines")
@acts_on_students
def deadlines_command(call: Call) -> int:
    """Say who has until when, what is captured, and what failed or is late. Students like the class are one line."""
    opened = open_session(call)
    session.require_root(opened.caller, "deadlines")
    host, wanted = opened.host, students_of(opened, call)
    there = folders.remembered(host).folders
    found = listing.rows(host, wanted)
    lines = listing.table(found, there, everybody=bool(call.only or call.verbosity))
    text = render.table(("deadline", "who", "until", "state"), lines, talk.terminal_width()) if lines else ""
    entries = listing.students(found, wanted)
    talk.answer(call, text or "There is no deadline.", 0, deadlines=listing.as_json(found, there), students=entries)
    return 0


@click.command("verify-receipt")
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


@click.command("extend")
@click.argument("name", metavar="NAME")
@click.argument("length", metavar="LENGTH")
@click.option("--deadline", "which", metavar="NAME", help="Of this deadline; default: the next one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def extend_command(call: Call, name: str, length: str, which: str | None, as_json: bool) -> int:
    """Give student NAME more time: LENGTH is 15m, 2h or 1d."""
    call.command, call.as_json = "extend", as_json
    host = about_one(call, name)
    try:
        more = moments.length(length)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="LENGTH") from None
    moment = deadline.extend(host, name, more, which)
    appointments.renew(host)
    text = f"{name} has until {moments.words(moment.at)} for {moment.deadline.name}."
    talk.answer(call, text, 0, deadline=moment.deadline.name, at=moment.at.isoformat())
    return 0


@click.command("freeze")
@acts_on_students
def freeze_command(call: Call) -> int:
    """Let every process of the students stand still, until `thaw`. Nothing is lost, nothing can be saved."""
    opened = open_session(call)
    wanted = students_of(opened, call)
    return change(call, opened, lambda host: freeze.plan_freeze(host, wanted), Deed("frozen"))


@click.command("thaw")
@acts_on_students
def thaw_command(call: Call) -> int:
    """Let the students' processes go on after `freeze`."""
    opened = open_session(call)
    wanted = students_of(opened, call)
    return change(call, opened, lambda host: freeze.plan_thaw(host, wanted), Deed("thawed"))
