"""grade: init, and what follows it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from nblauncher.cli import render, serving, similar, terminal
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import CommandSpec, Prepared, change, open_session, students_of
from nblauncher.cli.help import Command
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Report


@click.command(
    "grade",
    cls=Command,
    examples=[
        ("Install nbgrader, make the course's folder and import the roster", "sudo nblauncher grade init"),
        ("Grade what is new or changed of an assignment", "sudo nblauncher grade ps1"),
        ("Grade one student's submission once more", "sudo nblauncher grade ps1 --regrade --only ada"),
        ("Compare the submissions with each other", "sudo nblauncher grade ps1 --similar"),
        ("Mark and comment by hand, in the browser", "sudo nblauncher grade serve"),
    ],
)
@click.argument("what", metavar="init|serve|ASSIGNMENT")
@click.option("--regrade", is_flag=True, help="Also grade what is graded already and has not changed.")
@click.option("--similar", "compares", is_flag=True, help="Grade nothing: compare the submissions, and write a page.")
@acts_on_students
def grade_command(call: Call, what: str, regrade: bool, compares: bool) -> int:
    """Grade an assignment with nbgrader, each submission confined. `init` prepares the course, `serve` opens the pages.

    An assignment that is called init is `./init`.
    """
    if what in ("init", "serve") and (regrade or compares):
        raise click.UsageError("--regrade and --similar are about an assignment")
    if what == "init":
        return _init(call)
    if what == "serve":
        return serving.keep(call)
    return _compare(call, what) if compares else _grade(call, what, again=regrade)


def _compare(call: Call, text: str) -> int:
    from nblauncher.commands import session
    from nblauncher.commands.grading import similar as comparing
    from nblauncher.commands.grading.grades import assignment_name

    opened = open_session(call)
    session.require_root(opened.caller, "grade")
    assignment = assignment_name(text, opened.settings.material)
    page, pairs, notes = comparing.carry_out(opened.host, assignment, students_of(opened, call))
    words = similar.text(page, pairs, notes, terminal.terminal_width())
    terminal.answer(call, words, 0, page=str(page), pairs=list(pairs), notes=list(notes))
    return 0


def _grade(call: Call, text: str, *, again: bool) -> int:
    from nblauncher.commands import session
    from nblauncher.commands.grading import grade, locks
    from nblauncher.commands.grading.grades import assignment_name

    opened = open_session(call)
    session.require_root(opened.caller, "grade")
    wanted = students_of(opened, call)
    assignment = assignment_name(text, opened.settings.material)
    run = grade.Run(assignment, looks_only=call.is_dry_run)

    def prepare(host: Host) -> Prepared:
        plan = grade.prepare(host, wanted, assignment, run, again=again)
        return Prepared(plan, summarize, tabulate)

    def summarize(_host: Host, report: Report) -> str:
        broken = grade.without_score(report)
        if not broken:
            return ""
        scored = len(report.done) - len(broken)
        students = f"{scored} student{'' if scored == 1 else 's'}"
        return f"Graded {printable(assignment)} of {students}. Without a score: {render.names_words(broken)}."

    def tabulate(report: Report) -> str:
        columns = ("student", "score", "of", "late", "remarks")
        return render.table(columns, grade.rows(report, run), terminal.terminal_width())

    spec = CommandSpec(
        f"Graded {printable(assignment)} of {{students}}.",
        "{ratio} submissions were not graded",
        enrich=lambda _host, names: grade.enrich(run, names),
        details=grade.NOTHING,
        lock=locks.grading_lock,
    )
    with run.stack:
        return change(call, opened, prepare, spec)


def _init(call: Call) -> int:
    from nblauncher.commands.grading import init

    if call.is_about_some:
        raise click.UsageError("init concerns the whole class and cannot be combined with --only or --section")
    opened = open_session(call, needs_roster=True)
    run = init.Run()

    def prepare(host: Host) -> Prepared:
        return Prepared(init.prepare(host, opened, run), functools.partial(init.summary, run))

    spec = CommandSpec(
        "The course is ready to be graded.", "{ratio} students were not imported", details={"imported": []}
    )
    return change(call, opened, prepare, spec)
