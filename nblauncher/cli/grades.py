"""feedback and grades."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nblauncher.cli import render, terminal
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import NO_MATERIAL, CommandSpec, Prepared, change, open_session, students_of
from nblauncher.cli.help import Command
from nblauncher.model import Roster
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.commands.grading.grades import Sheet
    from nblauncher.planning.host import Host

_STDOUT = "-"
_PLAIN = "plain"
_FORMS = (_PLAIN, "moodle", "canvas")
"""Those of commands.grading.grades, which takes long to import."""


@click.command(
    "feedback",
    cls=Command,
    examples=[
        ("Put each student's feedback on ps1 into their home", "sudo nblauncher feedback ps1"),
        ("After a regrade of ada", "sudo nblauncher feedback ps1 --only ada"),
    ],
)
@click.argument("assignment", metavar="ASSIGNMENT")
@acts_on_students
def feedback_command(call: Call, assignment: str) -> int:
    """Render nbgrader's feedback on what was graded, and put each student's own into their home."""
    from nblauncher.commands.grading import feedback, grades

    opened = open_session(call)
    run = feedback.Run(grades.assignment_name(assignment, opened.settings.material))
    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        return Prepared(
            feedback.prepare(host, wanted, run),
            lambda _host, report: feedback.summary(run, report),
            lambda report: render.changes_text(report, terminal.terminal_width()),
        )

    spec = CommandSpec(
        "Put the feedback into {homes}.", "{ratio} students did not get their feedback", details=NO_MATERIAL
    )
    return change(call, opened, prepare, spec)


@click.command(
    "grades",
    cls=Command,
    examples=[
        ("Show the grades of ps1", "sudo nblauncher grades ps1"),
        ("All grades, for a spreadsheet", "sudo nblauncher grades --csv grades.csv"),
        ("A file that Moodle imports", "sudo nblauncher grades ps1 --csv ps1-moodle.csv --format moodle"),
        ("The same for Canvas", "sudo nblauncher grades ps1 --csv ps1.csv --format canvas"),
    ],
)
@click.argument("assignment", required=False, metavar="[ASSIGNMENT]")
@click.option("--csv", "file", metavar="FILE", help="Write the grades into this file; - for standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    help="The form of the file.  [default: plain]",
)
@click.option("--column", metavar="NAME", help="The name of the grade's column for Moodle or Canvas.")
@acts_on_students
def grades_command(call: Call, assignment: str | None, file: str | None, form: str | None, column: str | None) -> int:
    """Print what the gradebook says, or write it into a file that a spreadsheet, Moodle or Canvas reads."""
    from nblauncher.commands.grading import grades
    from nblauncher.commands.grading.grades import Sheet

    if assignment is not None and Path(assignment).suffix.lower() in (".csv", ".cfg"):  # ASSIGNMENT may be missing
        call.files, assignment = (Path(assignment), *call.files), None
    _refuse(call, assignment, file, form, column)
    opened = open_session(call, needs_roster=True)
    host = opened.host
    target = None if file is None or file == _STDOUT else Path(os.path.abspath(file))
    if target is not None:
        grades.refuse_inputs(host, target)
    name = grades.assignment_name(assignment, host.settings.material) if assignment else ""
    sheet = Sheet(grades.read(host, name), opened.roster or Roster(), name)
    if call.only:
        sheet = sheet.only(call.only)
    for line in _notes(sheet, form):
        terminal.tell(f"Note: {printable(line)}")
    if file is not None:
        text = sheet.exported(form or _PLAIN, column)
        if target is None:
            terminal.stops_working()
            click.echo(text, nl=False)
            return 0
        if call.is_dry_run:
            line = f"write {target} as {host.owner.username}"
            terminal.answer(call, f"grades would:\n  {line}", 0, plan=[line], notes=[])
            return 0
        grades.write(host, target, text)
    words = f"The grades are in {target}" if target else _table(sheet)
    terminal.answer(call, words, 0, students=sheet.entries())
    return 0


def _refuse(call: Call, assignment: str | None, file: str | None, form: str | None, column: str | None) -> None:
    is_form = form not in (None, _PLAIN)
    if file is None and (form or column):
        raise click.UsageError("--format and --column need --csv FILE")
    if is_form and not assignment:
        raise click.UsageError(f"--format {form} needs an ASSIGNMENT: it is a file for each")
    if column is not None and not is_form:
        raise click.UsageError("--column needs --format moodle or canvas")
    if file == _STDOUT and call.as_json:
        raise click.UsageError("--json cannot be combined with --csv -")


def _notes(sheet: Sheet, form: str | None) -> list[str]:
    notes = []
    if sheet.waiting:
        notes.append(f"not graded by hand yet: {render.names_words(sheet.waiting)}")
    if sheet.strangers:
        left_out = "" if form in (None, _PLAIN) else ", left out of the file"
        notes.append(f"graded, and not on the roster{left_out}: {render.names_words(sheet.strangers)}")
    if form == "moodle" and sheet.unidentified:
        names = render.names_words(sheet.unidentified)
        notes.append(f"left out, because Moodle finds nobody without email or student_id: {names}")
    return notes


def _table(sheet: Sheet) -> str:
    if not sheet.found.assignments:
        return "The gradebook has no assignment yet."
    head, rows = sheet.table()
    return render.table(head, rows, terminal.terminal_width())
