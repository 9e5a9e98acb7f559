"""message, open."""

from __future__ import annotations

from datetime import datetime

import click

from nblauncher.cli import terminal
from nblauncher.cli.arguments import about_one
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import open_session, students_of
from nblauncher.cli.help import Command
from nblauncher.printable import printable


@click.command(
    "message",
    cls=Command,
    examples=[
        ("To the class", 'sudo nblauncher message "Five minutes left"'),
        ("Until the break", 'sudo nblauncher message "Room 2 from 11:00 on" --until 11:00'),
        ("To two students", 'sudo nblauncher message "Please come to my desk" --only ada,bob'),
        ("Remove it", "sudo nblauncher message --clear"),
    ],
)
@click.argument("text", required=False)
@click.option("--until", metavar="TIME", help="When it goes away: 10:45, a date with a time, or a length such as 20m.")
@click.option("--clear", is_flag=True, help="Remove the message; with --only that to these students.")
@acts_on_students
def message_command(call: Call, text: str | None, until: str | None, clear: bool) -> int:
    """Show a message above every notebook and on the front page. It replaces the last one. Markup is shown as text."""
    from nblauncher.commands import session
    from nblauncher.commands.teaching import message
    from nblauncher.config import times

    if clear == (text is not None) or (clear and until is not None):
        raise click.UsageError("give either a TEXT (in quotes) or --clear")
    now = datetime.now().astimezone()
    words = "" if text is None else message.checked_text(text)
    end = None if until is None else message.checked_until(until, now)
    opened = open_session(call)
    chosen = students_of(opened, call) if call.only else None
    who = "the class" if chosen is None else ", ".join(chosen)
    shown = f"“{printable(words)}”{'' if end is None else f' until {times.short(end)}'}"
    if call.is_dry_run:
        line = f"show {who} {shown}" if words else f"remove the message to {who}"
        terminal.answer(call, line, 0, plan=[line], notes=[])
        return 0
    session.require_root(opened.caller, call.command)
    reports = message.say(opened.host, chosen, words, end)
    unreached = sorted(frozenset(chosen or ()) - {report.username for report in reports})
    for name in unreached:
        terminal.tell(f"Note: {name} has no server in this class, and does not see it.")
    awake = sum(report.handle is not None for report in reports)
    text = (
        f"{len(reports)} {'student sees' if len(reports) == 1 else 'students see'} {shown}; {awake} now."
        if words
        else ""
    )
    terminal.answer(
        call,
        text or f"Removed the message to {who}.",
        0,
        message=words,
        until=None if end is None else times.iso(end),
        seen_by=[report.username for report in reports],
    )
    return 0


@click.command(
    "open",
    cls=Command,
    examples=[
        ("Help ada at her notebook", "sudo nblauncher open ada"),
        ("Sign out there", "sudo nblauncher open ada --end"),
    ],
)
@click.argument("name", metavar="NAME")
@click.option("--end", is_flag=True, help="End your visits to this student's server, and void unused links.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def open_command(call: Call, name: str, end: bool, as_json: bool) -> int:
    """Print a link that opens a student's notebooks for you, once, within five minutes. The student is told."""
    from nblauncher.commands.teaching import visit

    call.command, call.as_json = "open", as_json
    host = about_one(call, name)
    if end:
        ended = visit.end(host, (name,))
        terminal.answer(
            call, f"Ended: {ended} visits and unused links." if ended else "open: nothing to end.", 0, link=None
        )
        return 0
    link = visit.make_link(host, name)
    terminal.tell(
        f"The link opens {name}'s notebooks once, within five minutes, for an hour. {name} sees that you came.\n"
        "Open it in a private window, one for each student: code of the student runs in it."
    )
    terminal.answer(call, link.url, 0, link=link.url)
    return 0
