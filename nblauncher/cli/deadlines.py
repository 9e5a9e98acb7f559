"""What `retrieve` does at deadlines and for grading; verify-receipt, extend, freeze, thaw."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from nblauncher import inputs, logs, moments, receipts, render
from nblauncher.cli import rounds, talk
from nblauncher.cli.asked import about_one
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import EXIT_INTERRUPTED, NO_FILES, Deed, change, open_session, students_of
from nblauncher.commands import (
    appointments,
    deadline,
    folders,
    freeze,
    handin,
    listing,
    pending,
    publishing,
    retrieve,
    session,
)
from nblauncher.deadlines import Moment
from nblauncher.host import Host
from nblauncher.model import Deadline
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

    unknown = dict.fromkeys(("handed_in", "late", "folder_missing", "capture", "until"))
    deed = Deed("retrieved", summary=summary, table=table, details={**NO_FILES, **unknown})
    return change(call, opened, make_plan, deed)


def retrieve_at(call: Call, opened: session.Session, at: datetime, now: datetime, folder: str) -> int:
    """Leave it to the supervisor of a running class, or wait for it here."""
    host = opened.host
    if call.is_dry_run:
        lines = [
            f"The class's work would be captured at {moments.words(at)}.",
            *_later_words(deadline.later(host, Deadline("", "", at))),
        ]
        talk.answer(call, "\n".join(lines), 0, plan=lines, notes=[])
        return 0
    session.require_root(opened.caller, "retrieve")
    added = deadline.add(host, at, folder, now)
    call.log_file = logs.start(host.paths.logs, call.verbosity)
    if added.folder and added.folder not in folders.known(host).folders:
        talk.tell(f"Note: {folders.absent(added.name, added.folder)}")
    later = deadline.later(host, added)
    words = _later_words(later)
    about: dict[str, Any] = {
        "deadline": added.name,
        "at": moments.iso(added.at),
        "later": [{"username": one.username, "at": moments.iso(one.at)} for one in later],
    }
    if appointments.renew(host):
        talk.answer(call, "\n".join([f"The class's work is captured at {moments.words(at)}.", *words]), 0, **about)
        return 0
    waiting = rounds.begin(call, opened, added.name, about)
    try:
        end = later[-1].at if later else at
        talk.tell(f"The class does not run: waiting here until {moments.words(end)}. Ctrl-C ends the waiting.")
        for line in words:
            talk.tell(line)
        exit_code = waiting.carry_out()
    except KeyboardInterrupt:
        _take_back(host, added.name)
        raise
    if exit_code == EXIT_INTERRUPTED:
        _take_back(host, added.name)
    return exit_code


def _later_words(later: Sequence[Moment]) -> list[str]:
    """A line for each later moment, the earliest first."""
    names: dict[datetime, list[str]] = {}
    for one in later:
        names.setdefault(one.at, []).append(one.username)
    return [
        f"For their extra time later, at {moments.words(at)}: {render.names_words(who)}." for at, who in names.items()
    ]


def _take_back(host: Host, name: str) -> None:
    """Nobody waits for it any more."""
    if any(one.name == name for one in pending.scheduled(host, datetime.now().astimezone())):
        host.course_ledger.cancel_deadlines([name])
        appointments.renew(host)
        talk.tell(f"The capture of {name} is cancelled.")


def cancel(call: Call, opened: session.Session, name: str) -> int:
    """What `retrieve --at` scheduled; a command that waits for it ends."""
    session.require_root(opened.caller, "retrieve")
    found = deadline.cancel(opened.host, name)
    appointments.renew(opened.host)
    about = {"deadline": found.name, "at": moments.iso(found.at)}
    talk.answer(call, f"The capture at {moments.words(found.at)} is cancelled.", 0, **about)
    return 0


def at_deadlines(call: Call, opened: session.Session) -> int:
    """What is due, and what becomes so meanwhile."""
    return rounds.begin(call, opened).carry_out()


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
@click.option("--deadline", "which", metavar="NAME", help="Of this deadline; default: the next one, or else the last.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def extend_command(call: Call, name: str, length: str, which: str | None, as_json: bool) -> int:
    """Give student NAME more time: LENGTH is 15m, 2h or 1d. A deadline that is past is reopened for this student."""
    call.command, call.as_json = "extend", as_json
    host = about_one(call, name)
    try:
        more = moments.length(length)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="LENGTH") from None
    now = datetime.now().astimezone()
    earlier = [one for one in pending.captures(host, now) if one.username == name and one.captured]
    moment = deadline.extend(host, name, more, which, now)
    appointments.renew(host)
    text = f"{name} has until {moments.words(moment.at)} for {moment.deadline.name}."
    if kept := [one.folder for one in earlier if one.deadline == moment.deadline.name and one.folder]:
        text += f" What was captured before stays in {kept[-1]}."
    talk.answer(call, text, 0, deadline=moment.deadline.name, at=moments.iso(moment.at))
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
