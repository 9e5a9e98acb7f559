"""snapshot, history, restore."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from nblauncher.cli import render, terminal
from nblauncher.cli.arguments import about_one, time_of
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import NO_FILES, CommandSpec, Prepared, change, open_accepted, open_session, students_of
from nblauncher.cli.help import Command
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.planning.host import Host


@click.command(
    "snapshot",
    cls=Command,
    examples=[
        ("Before a risky step in class", "sudo nblauncher snapshot"),
    ],
)
@click.option("--unattended", metavar="COURSE", hidden=True, help="What the supervisor runs now and then.")
@acts_on_students
def snapshot_command(call: Call, unattended: str | None) -> int:
    """Record what the students' material folders hold now. `history` lists and `restore` brings back."""
    from nblauncher.commands import history_share, snapshot

    opened = open_session(call) if unattended is None else open_accepted(call, unattended)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()

    def prepare(host: Host) -> Prepared:
        plan, run = snapshot.prepare(host, wanted, now=now)
        return Prepared(plan, lambda host, report: snapshot.summary(run, report, history_share.of_each(host)))

    details = {**NO_FILES, "changed": 0, "history_bytes": 0, "history_share": 0, "history_above_share": False}
    spec = CommandSpec(
        "Took snapshots of {students}.",
        "{ratio} students have no new snapshot",
        details=details,
        makes_course=unattended is None,
    )
    return change(call, opened, prepare, spec)


@click.command("watch-disks", hidden=True)
@click.option("--unattended", metavar="COURSE", required=True, help="What the supervisor runs now and then.")
@acts_on_students
def watch_disks_command(call: Call, unattended: str) -> int:
    """Measure every student's home, for `status`."""
    from nblauncher.commands import disks
    from nblauncher.planning import survey

    opened = open_accepted(call, unattended)
    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        return Prepared(disks.plan_watch(wanted, survey.survey(host, wanted)))

    return change(
        call,
        opened,
        prepare,
        CommandSpec("Measured {homes}.", "{ratio} homes were not measured", lock=disks.lock, makes_course=False),
    )


@click.command(
    "history",
    cls=Command,
    examples=[
        ("All snapshots of ada", "sudo nblauncher history ada"),
        ("All versions of one file", "sudo nblauncher history ada ps1/lab1.ipynb"),
    ],
)
@click.argument("name", metavar="NAME")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def history_command(call: Call, name: str, file: str | None, as_json: bool) -> int:
    """List a student's snapshots, or the versions of one FILE (its path below the material folder)."""
    from nblauncher.commands import history

    call.command, call.as_json = "history", as_json
    host = about_one(call, name)
    if file is None:
        taken = history.snapshots(host, name)
        counts = host.history.paths(name)
        more: dict[str, Any] = {"snapshots": taken, "paths": counts}
        text = render.history_text(taken, counts, terminal.terminal_width())
    else:
        found = history.versions(host, name, history.checked_path(file))
        more = {"versions": found}
        text = render.versions_text(found, terminal.terminal_width())
    terminal.answer(call, text, 0, **more)
    return 0


@click.command(
    "restore",
    cls=Command,
    examples=[
        ("As the file was at 16:55", 'sudo nblauncher restore --at "2026-11-27 16:55" ada ps1/lab1.ipynb'),
    ],
)
@click.argument("name", metavar="NAME")
@click.argument("file", metavar="FILE")
@click.option(
    "--at", "at", required=True, metavar="TIME", help="The last snapshot by this time, as `history` shows it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def restore_command(call: Call, name: str, file: str, at: str, as_json: bool) -> int:
    """Bring an earlier version of a file back, beside the present one. FILE is its path below the material folder."""
    from nblauncher.commands import history
    from nblauncher.config import times
    from nblauncher.planning.locks import holding

    call.command, call.as_json = "restore", as_json
    host = about_one(call, name)
    time, until = time_of(at), time_of(at, times.last_meant)
    with holding(host):
        copy = history.restore(host, name, history.checked_path(file), until)
    target = host.settings.material.target
    text = f"Restored {printable(file)} of {times.words(time)} for {name}, as {printable(f'{target}/{copy}')}"
    terminal.answer(call, text, 0, path=f"{target}/{copy}")
    return 0
