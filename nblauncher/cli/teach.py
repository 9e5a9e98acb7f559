"""send, launch, reload, freeze and thaw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nblauncher.cli import foreground, render, service, terminal
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import (
    EXIT_PARTIAL,
    NO_MATERIAL,
    NO_SERVER,
    CommandSpec,
    Prepared,
    change,
    open_accepted,
    open_session,
    students_of,
)
from nblauncher.cli.help import Command
from nblauncher.model import Roster
from nblauncher.printable import printable
from nblauncher.system import interruption

if TYPE_CHECKING:
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Plan, Report

KERNELS_LOAD = 20.0
"""Seconds that `launch` waits at most for the report of the kernels' fork server. Students are served already."""


@click.command(
    "send",
    cls=Command,
    examples=[
        ("Deliver what is new and corrected", "sudo nblauncher send"),
        ("Give back what ada deleted", "sudo nblauncher send --restore-deleted --only ada"),
        ("Hand out an assignment, generated with nbgrader", "sudo nblauncher send --assignment ps1"),
        ("Bring retrieved work back into new homes", "sudo nblauncher send --last-retrieved"),
    ],
)
@click.option("--assignment", metavar="FOLDER", help="Send the release of this assignment instead of the material.")
@click.option("--restore-deleted", is_flag=True, help="Also restore files that a student deleted.")
@click.option("--only-new", is_flag=True, help="Only files that a student never had; nothing is updated.")
@click.option("--last-retrieved", is_flag=True, help="Bring the work of the last retrieval back into the homes.")
@acts_on_students
def send_command(
    call: Call, assignment: str | None, restore_deleted: bool, only_new: bool, last_retrieved: bool
) -> int:
    """Deliver new and corrected material to every home. What students wrote is kept, and merged with it."""
    from nblauncher.commands import returning, send
    from nblauncher.commands.grading import hand_out

    if restore_deleted and only_new:
        raise click.UsageError("--restore-deleted cannot be combined with --only-new")
    if last_retrieved and (restore_deleted or only_new or assignment is not None):
        raise click.UsageError("--last-retrieved cannot be combined with another option of what is sent")
    opened = open_session(call)
    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        if last_retrieved:
            plan = returning.prepare(host, wanted)
        elif assignment is None:
            plan = send.prepare(host, wanted, restores_deleted=restore_deleted, only_new=only_new)
        else:
            plan = hand_out.prepare(host, wanted, assignment, restores_deleted=restore_deleted, only_new=only_new)
        return Prepared(
            plan,
            tabulate=lambda report: render.changes_text(report, terminal.terminal_width()),
            preview=_files_to_come(host, plan, wanted) if call.is_dry_run else "",
        )

    spec = CommandSpec(
        "Brought work back to {students}." if last_retrieved else "Sent material to {students}.",
        "{ratio} students did not get " + ("their work back" if last_retrieved else "the material"),
        details=NO_MATERIAL,
    )
    return change(call, opened, prepare, spec)


def _files_to_come(host: Host, plan: Plan, usernames: Sequence[str]) -> str:
    from nblauncher.commands import send
    from nblauncher.planning.plan import Report

    report = Report.of(usernames)
    files = send.preview(host, plan)
    for name, changes in files.items():
        report[name].details["changes"] = changes
    if not (table := render.changes_text(report, terminal.terminal_width())):
        return ""
    if not any(change["change"] == send.CHANGED for changes in files.values() for change in changes):
        return table
    return f"{table}\n\nA new version is merged into a file that the student changed. Nothing written is overwritten."


@click.command(
    "launch",
    cls=Command,
    examples=[
        ("Start the class and watch it until Ctrl-C", "sudo nblauncher launch"),
        ("Return when the class is ready", "sudo nblauncher launch --background"),
        ("Start each server when its student arrives", "sudo nblauncher launch --on-demand"),
    ],
)
@click.option("--background", is_flag=True, help="Return when the class is ready; `shutdown` ends it.")
@click.option("--on-demand", is_flag=True, help="Start each server when its student arrives (or set notebook.start).")
@click.option(
    "--front-page-only", metavar="COURSE", hidden=True, help="What the supervisor runs when the front page died."
)
@click.option("--service", "service_of", metavar="COURSE", hidden=True, help="What systemd runs.")
@acts_on_students
def launch_command(
    call: Call, background: bool, on_demand: bool, front_page_only: str | None, service_of: str | None
) -> int:
    """Start a notebook server per student, and the front page. Servers that still run are adopted."""
    from nblauncher.commands.running import front_page, launch

    if service_of is not None:
        return service.serve(call, service_of)
    if front_page_only is not None:
        front_page.revive(open_accepted(call, front_page_only).host)
        return 0
    opened = open_session(call)
    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        return _served(launch.prepare(host, wanted, opened.contents, on_demand=on_demand))

    spec = CommandSpec(
        "Started {servers}.",
        "{ratio} servers were not started",
        enrich=launch.student_details,
        details=NO_SERVER,
        with_front_page=True,
    )
    interruption.outlive_hangups()
    exit_code = change(call, opened, prepare, spec)
    if background or call.is_dry_run or exit_code not in (0, EXIT_PARTIAL):
        return exit_code
    return foreground.keep(opened.host)


def _served(plan: Plan) -> Prepared:
    """The plan of `launch` or `reload`, reported as how many servers are ready, and where."""
    from nblauncher.commands.running import launch

    def summarize(host: Host, report: Report) -> str:
        ready = f"{launch.served_words(report)}. Students begin at {host.frontend.front_page}"
        return f"Nothing to do: {ready}" if plan.is_empty else ready + _about_kernels(host)

    return Prepared(plan, summarize)


def _about_kernels(host: Host) -> str:
    from nblauncher.commands.running import status

    terminal.works("waiting until the kernels' packages are loaded")
    kernels = status.kernels_words(host, KERNELS_LOAD)
    return f"\nNote: {printable(kernels)}" if kernels else ""


@click.command(
    "reload",
    cls=Command,
    examples=[
        ("After adding rows to students.csv", "sudo nblauncher reload"),
    ],
)
@acts_on_students
def reload_command(call: Call) -> int:
    """Add new students and changed settings to the running class. Running servers are left alone."""
    from nblauncher.commands.running import launch, reload

    opened = open_session(call, needs_roster=True)
    wanted = (opened.roster or Roster()).only(students_of(opened, call))
    spec = CommandSpec(
        "Added {students}.",
        "{ratio} students were not added to the class",
        enrich=launch.student_details,
        details={**NO_SERVER, **NO_MATERIAL},
        touches_accounts=True,
        with_front_page=True,
    )

    def prepare(host: Host) -> Prepared:
        plan = reload.prepare(host, wanted, opened)
        served = _served(plan)

        def summarize(host: Host, report: Report) -> str:
            return "\n".join(filter(None, (served.summarize(host, report), reload.newcomers_words(host, plan))))

        return Prepared(plan, summarize)

    return change(call, opened, prepare, spec)


@click.command(
    "freeze",
    cls=Command,
    examples=[
        ("The whole class", "sudo nblauncher freeze"),
        ("One student", "sudo nblauncher freeze --only ada"),
    ],
)
@acts_on_students
def freeze_command(call: Call) -> int:
    """Freeze all of the students' processes until `thaw`. Nothing is lost; nothing can be saved."""
    from nblauncher.commands.deadlines import freeze

    opened = open_session(call)
    wanted = students_of(opened, call)
    return change(
        call,
        opened,
        lambda host: Prepared(freeze.plan_freeze(host, wanted)),
        CommandSpec("Froze {students}.", "{ratio} students were not frozen"),
    )


@click.command(
    "thaw",
    cls=Command,
    examples=[
        ("The whole class", "sudo nblauncher thaw"),
    ],
)
@acts_on_students
def thaw_command(call: Call) -> int:
    """Let the students' frozen processes run again."""
    from nblauncher.commands.deadlines import freeze

    opened = open_session(call)
    wanted = students_of(opened, call)
    return change(
        call,
        opened,
        lambda host: Prepared(freeze.plan_thaw(host, wanted)),
        CommandSpec("Thawed {students}.", "{ratio} students were not thawed"),
    )
