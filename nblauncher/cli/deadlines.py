"""What `retrieve` does at deadlines and for grading; deadlines, verify-receipt and extend."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nblauncher.cli import render, terminal
from nblauncher.cli.arguments import about_one
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import (
    EXIT_INTERRUPTED,
    NO_FILES,
    CommandSpec,
    Prepared,
    change,
    open_session,
    students_of,
)
from nblauncher.cli.help import Command
from nblauncher.model import Deadline
from nblauncher.system import logs

if TYPE_CHECKING:
    from nblauncher.commands.session import Session
    from nblauncher.config.deadlines import Moment
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Report


def retrieve_assignment(call: Call, opened: Session, folder: str, now: datetime) -> int:
    from nblauncher.commands.deadlines import assignment

    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        plan, run = assignment.prepare(host, wanted, folder, now=now)
        return Prepared(plan, functools.partial(assignment.summary, run), tabulate)

    def tabulate(report: Report) -> str:
        rows = render.table(("student", folder, "files"), assignment.rows(report), terminal.terminal_width())
        left_out = render.exceptions_text(report)
        return f"{rows}\n\n{left_out}" if left_out else rows

    unknown = dict.fromkeys(("handed_in", "late", "folder_missing", "capture", "until", "submission"))
    return change(
        call,
        opened,
        prepare,
        CommandSpec(
            "Retrieved the work of {students}.",
            "the work of {ratio} students was not retrieved",
            details={**NO_FILES, **unknown},
        ),
    )


def retrieve_at(call: Call, opened: Session, at: datetime, now: datetime, folder: str) -> int:
    """Let the supervisor of a running class do it, or wait for the moment here."""
    from nblauncher.cli import rounds
    from nblauncher.commands import session
    from nblauncher.commands.deadlines import deadline, folders
    from nblauncher.commands.running import schedule
    from nblauncher.config import times

    host = opened.host
    if call.is_dry_run:
        lines = [
            f"The class's work would be captured at {times.words(at)}.",
            *_later_words(deadline.later(host, Deadline("", "", at))),
        ]
        terminal.answer(call, "\n".join(lines), 0, plan=lines, notes=[])
        return 0
    session.require_root(opened.caller, "retrieve")
    added = deadline.add(host, at, folder, now)
    call.log_file = logs.start(host.paths.logs, call.verbosity)
    if added.folder and added.folder not in folders.known(host).folders:
        terminal.tell(f"Note: {folders.absent(added.name, added.folder)}")
    later = deadline.later(host, added)
    words = _later_words(later)
    about: dict[str, Any] = {
        "deadline": added.name,
        "at": times.iso(added.at),
        "later": [{"username": moment.username, "at": times.iso(moment.at)} for moment in later],
    }
    if schedule.renew(host):
        terminal.answer(call, "\n".join([f"The class's work is captured at {times.words(at)}.", *words]), 0, **about)
        return 0
    waiting = rounds.begin(call, opened, added.name, about)
    try:
        end = later[-1].at if later else at
        terminal.tell(f"The class is not running: waiting here until {times.words(end)}. Ctrl-C cancels the capture.")
        for line in words:
            terminal.tell(line)
        exit_code = waiting.carry_out()
    except KeyboardInterrupt:
        _take_back(host, added.name)
        raise
    if exit_code == EXIT_INTERRUPTED:
        _take_back(host, added.name)
    return exit_code


def _later_words(later: Sequence[Moment]) -> list[str]:
    """A line for each later moment, the earliest first."""
    from nblauncher.config import times

    names: dict[datetime, list[str]] = {}
    for moment in later:
        names.setdefault(moment.at, []).append(moment.username)
    return [
        f"Later, because of extra time, at {times.words(at)}: {render.names_words(students)}."
        for at, students in names.items()
    ]


def _take_back(host: Host, name: str) -> None:
    """This command was the one that waited for it, and it ends."""
    from nblauncher.commands.deadlines import pending
    from nblauncher.commands.running import schedule

    if any(scheduled.name == name for scheduled in pending.scheduled(host, datetime.now().astimezone())):
        host.course_ledger.cancel_deadlines([name])
        schedule.renew(host)
        terminal.tell(f"Cancelled the capture of {name}.")


def cancel(call: Call, opened: Session, name: str) -> int:
    """Cancel what `retrieve --at` scheduled. A command that waits for it ends."""
    from nblauncher.commands import session
    from nblauncher.commands.deadlines import deadline
    from nblauncher.commands.running import schedule
    from nblauncher.config import times

    session.require_root(opened.caller, "retrieve")
    found = deadline.cancel(opened.host, name)
    schedule.renew(opened.host)
    about = {"deadline": found.name, "at": times.iso(found.at)}
    terminal.answer(call, f"Cancelled the capture at {times.words(found.at)}.", 0, **about)
    return 0


def at_deadlines(call: Call, opened: Session) -> int:
    """Capture what is due, and what becomes due in the meantime."""
    from nblauncher.cli import rounds

    return rounds.begin(call, opened).carry_out()


@click.command(
    "deadlines",
    cls=Command,
    examples=[
        ("The class, and students with their own deadlines", "sudo nblauncher deadlines"),
        ("Every moment of one student", "sudo nblauncher deadlines --only ada"),
    ],
)
@acts_on_students
def deadlines_command(call: Call) -> int:
    """List all deadlines and what was captured, late or failed. Students who share the class's share a line."""
    from nblauncher.commands import session
    from nblauncher.commands.deadlines import folders, listing

    opened = open_session(call)
    session.require_root(opened.caller, "deadlines")
    host, wanted = opened.host, students_of(opened, call)
    there = folders.remembered(host).folders
    found = listing.rows(host, wanted)
    lines = listing.table(found, there, every_student=bool(call.only or call.verbosity))
    text = render.table(("deadline", "student", "until", "state"), lines, terminal.terminal_width()) if lines else ""
    entries = listing.students(found, wanted)
    terminal.answer(call, text or "There is no deadline.", 0, deadlines=listing.as_json(found, there), students=entries)
    return 0


@click.command(
    "verify-receipt",
    cls=Command,
    examples=[
        ("A receipt that a student handed in", "sudo nblauncher verify-receipt receipt.json"),
    ],
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def verify_receipt_command(call: Call, file: Path, as_json: bool) -> int:
    """Verify a student's receipt and say what it proves."""
    from nblauncher.commands import session
    from nblauncher.commands.deadlines import publish

    call.command, call.as_json = "verify-receipt", as_json
    opened = open_session(call)
    session.require_root(opened.caller, call.command)
    reader = session.reader_of(opened.host, file.absolute(), opened.caller.person)
    text, about = publish.verify(opened.host, publish.read_receipt(reader, file.absolute()))
    terminal.answer(call, text, 0, receipt=about)
    return 0


@click.command(
    "extend",
    cls=Command,
    examples=[
        ("Fifteen more minutes for ada", "sudo nblauncher extend ada 15m"),
        ("Reopen ps1 for a day", "sudo nblauncher extend --deadline ps1 ada 1d"),
    ],
)
@click.argument("name", metavar="NAME")
@click.argument("length", metavar="LENGTH")
@click.option("--deadline", "which", metavar="NAME", help="The deadline.  [default: the next one, else the last]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def extend_command(call: Call, name: str, length: str, which: str | None, as_json: bool) -> int:
    """Give student NAME more time. LENGTH is 15m, 2h or 1d. A past deadline is reopened for this student."""
    from nblauncher.commands.deadlines import deadline, pending
    from nblauncher.commands.running import schedule
    from nblauncher.config import times

    call.command, call.as_json = "extend", as_json
    host = about_one(call, name)
    try:
        more = times.length(length)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="LENGTH") from None
    now = datetime.now().astimezone()
    earlier = [capture for capture in pending.captures(host, now) if capture.username == name and capture.captured]
    moment = deadline.extend(host, name, more, which, now)
    schedule.renew(host)
    text = f"{name} has until {times.words(moment.at)} for {moment.deadline.name}."
    if kept := [capture.folder for capture in earlier if capture.deadline == moment.deadline.name and capture.folder]:
        text += f" What was captured before stays in {kept[-1]}."
    terminal.answer(call, text, 0, deadline=moment.deadline.name, at=times.iso(moment.at))
    return 0
