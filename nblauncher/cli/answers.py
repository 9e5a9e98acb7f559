"""What a teacher asks while the class runs: status, logs; and restart, for a notebook that hangs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from nblauncher.cli import class_table, terminal
from nblauncher.cli.arguments import about_one
from nblauncher.cli.call import Call, acts_on_students, names
from nblauncher.cli.carry_out import NO_SERVER, CommandSpec, Prepared, change, open_session, students_of
from nblauncher.cli.help import Command
from nblauncher.errors import InputError
from nblauncher.model import ServerState
from nblauncher.printable import printable
from nblauncher.system import interruption

if TYPE_CHECKING:
    from nblauncher.planning.host import Host

_LOOK_EVERY = 0.25
"""Seconds between two looks at a log that is followed."""


@click.command(
    "status",
    cls=Command,
    examples=[
        ("The whole class", "sudo nblauncher status"),
        ("Live, the largest first", "sudo nblauncher status --watch --sort memory"),
        ("One student, as JSON", "sudo nblauncher status --only ada --json"),
    ],
)
@click.option("--watch", "is_watching", is_flag=True, help="Show it live, until q or Ctrl-C.")
@click.option(
    "--sort", type=click.Choice(class_table.SORTS), help="The order of the students.  [default: the roster's]"
)
@acts_on_students
def status_command(call: Call, is_watching: bool, sort: str | None) -> int:
    """Show every server: its state, kernels, memory, CPU time, disk, and when the student last did something."""
    from nblauncher.commands import session
    from nblauncher.commands.running import status
    from nblauncher.commands.teaching import roster_news

    session.require_root(session.caller_now(), "status")
    if is_watching and call.as_json:
        raise click.UsageError("--watch cannot be combined with --json")
    opened = open_session(call)
    host, wanted = opened.host, students_of(opened, call)
    if is_watching:
        from nblauncher.cli import watch

        return watch.watch(host, wanted, sort or "name")
    now = datetime.now().astimezone()
    view = status.look(host, wanted, now)
    entries = class_table.order(view.entries, sort, {}) if sort else view.entries
    table = class_table.table(entries, terminal.terminal_width(), now)
    words = status.summary(view.entries, view.front_page)
    news = roster_news.differences(opened)
    update = "reload" if view.front_page == ServerState.READY.value else "setup"
    after = [*filter(None, [printable(view.kernels)]), *news.lines(update)]
    lines = [*class_table.head(view, now), *table, words, *after]
    about = {"front_page": host.frontend.front_page, **view.details, "roster": news.entry()}
    terminal.answer(call, "\n".join(lines), 0, students=list(entries), **about)
    return 0


@click.command(
    "logs",
    cls=Command,
    examples=[
        ("The last lines of ada's server", "sudo nblauncher logs ada"),
        ("Follow them", "sudo nblauncher logs ada -f"),
        ("Of supervisor and front page", "sudo nblauncher logs -n 20"),
    ],
)
@click.argument("name", required=False, metavar="[NAME]")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="How many lines.")
@click.pass_obj
def logs_command(call: Call, name: str | None, follow: bool, lines: int) -> int:
    """Show the log of a student's server; without NAME those of supervisor, front page and fork servers."""
    from nblauncher.commands import session
    from nblauncher.commands.running import logs

    call.command = "logs"
    session.require_root(session.caller_now(), "logs")
    host = open_session(call).host if name is None else about_one(call, name)
    files = logs.files(host, name)
    followers = [logs.Follower(file) for file in files] if follow else []
    has_titles, last = len(files) > 1, ""
    for file in files:
        found = logs.last_lines(file, lines)
        if found:
            last = _show(found, file.name, last if has_titles else file.name)
        elif not has_titles and not follow:
            terminal.story(f"There is no log of {printable(name or '')} yet.")
    try:
        while followers:
            for follower in followers:
                if new := follower.new_lines():
                    last = _show(new, follower.file.name, last if has_titles else follower.file.name)
            interruption.sleep(_LOOK_EVERY)
    except KeyboardInterrupt:
        return 0
    return 0


def _show(lines: Sequence[str], title: str, last: str) -> str:
    """The lines, below a title where another log comes; returns the title."""
    if title != last:
        terminal.say(f"{'' if not last else chr(10)}==> {title} <==")
    terminal.say("\n".join(lines))
    return title


@click.command(
    "restart",
    cls=Command,
    examples=[
        ("A new server for ada", "sudo nblauncher restart ada"),
        ("Only her kernels, if a cell hangs", "sudo nblauncher restart ada --kernels"),
    ],
)
@click.argument("students", nargs=-1, metavar="NAME[,NAME...]")
@click.option("--kernels", is_flag=True, help="End the kernels only; the server and its open tabs stay.")
@click.option("--only", multiple=True, metavar="NAME[,NAME...]", help="Further students. Repeatable.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def restart_command(
    call: Call,
    students: tuple[str, ...],
    kernels: bool,
    only: tuple[str, ...],
    is_dry_run: bool,
    as_json: bool,
    yes: bool,
) -> int:
    """Restart the servers of these students, or only their kernels. What runs in their notebooks is lost."""
    from nblauncher.commands import session
    from nblauncher.commands.running import launch, restart

    call.command, call.is_dry_run, call.as_json, call.yes = "restart", is_dry_run, as_json, yes
    call.only = names("NAME", students) | names("--only", only)
    if not call.only:
        raise click.UsageError("name the students whose servers are restarted")
    caller = session.caller_now()
    session.require_root(caller, "restart")
    given = open_session(call)
    if unknown := sorted(call.only - set(given.host.ledger.members(given.settings.course))):
        raise InputError([f'there is no student "{printable(name)}" in the course' for name in unknown])
    # As the rest of the class: with the config that was accepted last.
    opened = session.open_accepted(caller, given.settings.course)
    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        return Prepared(restart.prepare(host, wanted, only_kernels=kernels))

    spec = CommandSpec(
        "Ended the kernels of {students}." if kernels else "Restarted {servers}.",
        "the kernels of {ratio} students were not ended" if kernels else "{ratio} servers were not restarted",
        enrich=launch.student_details,
        details={**NO_SERVER, "unproven": [], "kernels_ended": None},
        is_destructive=True,
    )
    return change(call, opened, prepare, spec)
