"""roster import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nblauncher.cli import render, terminal
from nblauncher.cli.call import Call
from nblauncher.cli.help import Command
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.commands.teaching.roster_import import Import

_MOST_NAMES = 10


@click.command(
    "roster",
    cls=Command,
    examples=[
        ("Show what an export of Moodle would change", "nblauncher roster import participants.csv --dry-run"),
        ("Usernames are the student numbers", 'nblauncher roster import grades.xlsx --username-from "ID number"'),
    ],
)
@click.argument("action", type=click.Choice(["import"]), metavar="import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--username-from",
    metavar="COLUMN",
    default="",
    help="Make usernames from this column, from `email` or from `name`.  [default: the usernames there, or email]",
)
@click.option("--into", type=click.Path(path_type=Path), metavar="FILE", help="Write this roster, not the config's.")
@click.option("--drop-absent", is_flag=True, help="Drop students from the roster who are not in FILE.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Show what would change and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def roster_command(
    call: Call,
    action: str,
    file: Path,
    username_from: str,
    into: Path | None,
    drop_absent: bool,
    is_dry_run: bool,
    as_json: bool,
    yes: bool,
) -> int:
    """Make students.csv from a class list exported from Moodle, Canvas, Blackboard, ILIAS or Google Classroom. Students
    who are in it already keep their usernames and all other cells.
    """
    from nblauncher.commands import session
    from nblauncher.commands.teaching import roster_import

    call.command, call.is_dry_run, call.as_json, call.yes = "roster", is_dry_run, as_json, yes
    caller = session.caller(os.environ)
    target = roster_import.find_target(caller, call.config, into)
    made = roster_import.prepare(caller, file, target, username_from=username_from, drops_absent=drop_absent)
    if is_dry_run:
        notes = [*made.merged.notes, *_remarks(made)]
        terminal.answer(call, preview(made, file), 0, plan=list(made.changes.describe()), notes=notes)
        return 0
    if not made.changes_nothing:
        terminal.confirm(call, preview(made, file))
        roster_import.write(made)
    terminal.answer(
        call,
        _done(made),
        0,
        file=str(target.file),
        system=made.export.system,
        left_out=[{"line": line, "reason": why} for line, why in made.export.left_out],
        ignored_columns=list(made.export.ignored),
        notes=list(made.merged.notes),
        students=roster_import.details(made),
    )
    return 0


def preview(made: Import, source: Path) -> str:
    """Everything that would change, in the order in which a teacher would check it."""
    found = made.export
    system = f" (as {found.system} exports it)" if found.system else ""
    parts = [
        f"{printable(source.name)}{system}: {_students(len(found.people))}; usernames are made from {found.made_from}.",
        *_remarks(made),
    ]
    lines = ["\n".join(parts), _new(made), "\n".join(_changed(made)), "\n".join(_notes(made)), _counts(made)]
    return "\n\n".join(filter(None, lines))


def _remarks(made: Import) -> list[str]:
    """What was read how, and what was not taken."""
    found = made.export
    remarks = []
    if found.encoding:
        remarks.append(f"Read as {found.encoding}: check the names below.")
    if found.left_out:
        rows = "; ".join(f"line {line}, {why}" for line, why in found.left_out[:_MOST_NAMES])
        more = len(found.left_out) - _MOST_NAMES
        remarks.append(f"Not students: {rows}{f' and {more} more' if more > 0 else ''}")
    if found.ignored:
        remarks.append(f"Columns that are not taken: {', '.join(found.ignored)}")
    if made.replaces_sample:
        remarks.append(f"{printable(str(made.target.file))} is the sample that `init` wrote; its students go.")
    return remarks


def _new(made: Import) -> str:
    if not made.changes.added:
        return ""
    columns = {"name": "name", "email": "e-mail", "student_id": "ID", "section": "section"}
    used = [column for column in columns if any(getattr(one, column) for one in made.changes.added)]
    rows = [("new", one.username, *(getattr(one, column) for column in used)) for one in made.changes.added]
    return render.table(("", "username", *(columns[column] for column in used)), rows, terminal.terminal_width())


def _changed(made: Import) -> list[str]:
    return [line for line in made.changes.describe() if not line.startswith("+")]


def _notes(made: Import) -> list[str]:
    return [f"Note: {note}" for note in made.merged.notes]


def _counts(made: Import) -> str:
    kinds = [made.kind_of(student) for student in (*made.merged.roster, *made.changes.vanished)]
    words = {"new": "new", "changed": "changed", "kept": "unchanged", "dropped": "dropped"}
    counts = [f"{kinds.count(kind)} {word}" for kind, word in words.items() if kind in kinds]
    text = f"{printable(str(made.target.file))}: {', '.join(counts) or 'nothing changes'}"
    absent = made.merged.absent if not made.changes.vanished else ()
    if absent:
        text += f"\nNot in this list: {render.names_words(absent)}. They stay; --drop-absent drops them."
    return text


def _students(count: int) -> str:
    return f"{count} student{'' if count == 1 else 's'}"


def _done(made: Import) -> str:
    if made.changes_nothing:
        return f"Nothing to do. {_counts(made)}"
    return f"Wrote {_counts(made)}\nNext: `sudo nblauncher check`, then `setup`, or `reload` while the class runs."
