"""slips and mail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from nblauncher.cli import terminal
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import CommandSpec, Prepared, answer_report, change, open_session, students_of
from nblauncher.cli.help import Command
from nblauncher.model import Roster
from nblauncher.printable import printable

PAPERS = ("a4", "letter")
ORDERS = ("section", "seat", "name")


@click.command(
    "slips",
    cls=Command,
    examples=[
        ("Cards for the whole class, to print and cut", "sudo nblauncher slips"),
        ("On Letter paper, in the order of the seats", "sudo nblauncher slips --paper letter --by seat"),
        ("One card, to print from a browser", "sudo nblauncher slips --html ada.html --only ada"),
    ],
)
@click.option("--pdf", "pdf_file", metavar="FILE", help="Write a PDF.  [default: slips.pdf, beside the credentials]")
@click.option("--html", "html_file", metavar="FILE", help="Write a page that a browser prints as the same cards.")
@click.option("--paper", type=click.Choice(PAPERS), default="a4", help="The size of the paper.  [default: a4]")
@click.option(
    "--by",
    "order",
    type=click.Choice(ORDERS),
    help="The order of the cards; each section on pages of its own.  [default: section, without sections name]",
)
@acts_on_students
def slips_command(call: Call, pdf_file: str | None, html_file: str | None, paper: str, order: str | None) -> int:
    """Write a card for each student, to cut out: address, passwords, seat, deadlines, how to trust the class."""
    from nblauncher.commands import session
    from nblauncher.commands.teaching import slips

    if pdf_file is not None and html_file is not None:
        raise click.UsageError("--pdf cannot be combined with --html")
    file = _named("--pdf", pdf_file, ".pdf") or _named("--html", html_file, ".html")
    opened = open_session(call, needs_roster=True)
    host = opened.host
    session.require_root(opened.caller, "slips")
    students = (opened.roster or Roster()).only(students_of(opened, call))
    usual = slips.usual_file(host.settings, call.only)
    wanted = replace(usual, order=order, paper=paper)
    if file is not None:
        wanted = replace(wanted, file=file, form="pdf" if pdf_file else "html")
    if call.is_dry_run:
        line = f"write {wanted.file} with {_cards(len(students))} as {host.owner.username}"
        terminal.answer(call, f"slips would:\n  {line}", 0, plan=[line], notes=[])
        return 0
    terminal.works(f"slips: making {_cards(len(students))}")
    report, notes = slips.write(host, students, wanted)
    if file is None and wanted.form == "html":
        terminal.tell(f"Note: this is HTML, because WeasyPrint is not installed. {slips.PDF_HINT}")
    for note in notes:
        terminal.tell(f"Note: {printable(note)}")
    for student in report.students.values():
        student.details.setdefault("has_password", False)
    written = [one for one in report.students.values() if one.error != slips.NOT_SET_UP]
    summary = f"Wrote {_cards(len(written))} into {wanted.file}" if written else "No slip was written."
    spec = CommandSpec("", "{ratio} students have no password on a slip")
    return answer_report(call, report, spec, summary, {"file": str(wanted.file) if written else ""})


def _named(option: str, given: str | None, ending: str) -> Path | None:
    """A file cannot be the roster or the config by a slip of the pen."""
    if given is None:
        return None
    if not given.lower().endswith(ending):
        raise click.BadParameter(f'"{printable(given)}" does not end in {ending}', param_hint=option)
    return Path(os.path.abspath(given))


def _cards(number: int) -> str:
    return f"{number} slip{'' if number == 1 else 's'}"


@click.command(
    "mail",
    cls=Command,
    examples=[
        ("Show who would be sent a mail, and where", "sudo nblauncher mail --dry-run"),
        ("Send every student their own slip", "sudo nblauncher mail"),
        ("Once more, after ada deleted it", "sudo nblauncher mail --only ada --again"),
    ],
)
@click.option("--subject", metavar="TEXT", help="The subject of the mails.  [default: Your password for COURSE]")
@click.option("--again", "is_again", is_flag=True, help="Also to students who were sent this password before.")
@acts_on_students
def mail_command(call: Call, subject: str | None, is_again: bool) -> int:
    """Send each student their own slip by mail, through the mail server of the config."""
    from nblauncher.commands import session
    from nblauncher.commands.teaching import mail

    if subject is not None and not (subject.isprintable() and subject.strip()):
        raise click.BadParameter("it must be one line of text", param_hint="--subject")
    opened = open_session(call, needs_roster=True)
    session.require_root(opened.caller, "mail")
    mail.check(opened.host)
    students = (opened.roster or Roster()).only(students_of(opened, call))
    wish = mail.Wish(subject or "", is_again)
    connection = mail.Connection(students, wish)
    spec = CommandSpec(
        "Sent {students} their slip by mail.",
        "{ratio} students were not sent their slip",
        enrich=lambda host, _usernames: mail.student_details(host, students),
        details={"address": None, "mailed": None},
        lock=mail.lock,
    )
    try:
        return change(call, opened, lambda host: Prepared(mail.plan(host, students, connection, wish)), spec)
    finally:
        connection.close()
