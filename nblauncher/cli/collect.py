"""retrieve. What it does at deadlines and for grading is in deadlines."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING

import click

from nblauncher.cli import deadlines, render, terminal
from nblauncher.cli.arguments import time_of
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import (
    NO_FILES,
    CommandSpec,
    Prepared,
    change,
    open_accepted,
    open_session,
    students_of,
)
from nblauncher.cli.help import Command

if TYPE_CHECKING:
    from nblauncher.commands import retrieve
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Report


@click.command(
    "retrieve",
    cls=Command,
    examples=[
        ("Collect what students changed", "sudo nblauncher retrieve"),
        ("One assignment, laid out for grading", "sudo nblauncher retrieve --assignment ps1"),
        ("Capture all work at one moment", 'sudo nblauncher retrieve --at "2026-11-27 17:00"'),
    ],
)
@click.option("--all", "takes_all", is_flag=True, help="Collect the whole material folder, unchanged files too.")
@click.option("--at", "at", metavar="TIME", help='Capture all work at this moment: "2026-11-27 17:00".')
@click.option("--assignment", metavar="FOLDER", help="Collect this folder of the material, laid out for grading.")
@click.option(
    "--cancel", "cancelled", metavar="NAME", help="Cancel a scheduled --at: its folder, or the name it printed."
)
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
    """Collect the students' work into a new folder."""
    if unattended is not None:
        return deadlines.at_deadlines(call, open_accepted(call, unattended))
    if call.is_about_some and (at is not None or cancelled is not None):
        raise click.UsageError(
            "--at and --cancel concern the whole class and cannot be combined with --only or --section"
        )
    opened = open_session(call)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    if cancelled is not None:
        return deadlines.cancel(call, opened, cancelled)
    if at is not None:
        return deadlines.retrieve_at(call, opened, time_of(at), now, assignment or "")
    if assignment is not None:
        return deadlines.retrieve_assignment(call, opened, assignment, now)
    from nblauncher.commands import retrieve

    def prepare(host: Host) -> Prepared:
        plan, run = retrieve.prepare(host, wanted, takes_all=takes_all, now=now)
        return Prepared(plan, functools.partial(retrieve.summary, run), functools.partial(_retrieved_table, run))

    details = {**NO_FILES, "changed": None, "gone": None, "since": None}
    return change(
        call,
        opened,
        prepare,
        CommandSpec(
            "Retrieved the work of {students}.", "the work of {ratio} students was not retrieved", details=details
        ),
    )


def _retrieved_table(run: retrieve.Run, report: Report) -> str:
    """Empty when there is nothing new to show."""
    left_out = render.exceptions_text(report)
    if not run.folder or not (run.is_new or left_out):
        return ""
    return "\n\n".join(filter(None, (render.retrieved_text(report, terminal.terminal_width()), left_out)))
