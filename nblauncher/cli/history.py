"""snapshot, history, restore."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from nblauncher import moments, render, survey
from nblauncher.cli import talk
from nblauncher.cli.asked import about_one, time_of
from nblauncher.cli.call import Call, acts_on_students
from nblauncher.cli.carry_out import NO_FILES, Deed, change, open_accepted, open_session, students_of
from nblauncher.commands import disks, history, snapshot
from nblauncher.host import Host, course_lock
from nblauncher.ledger import locked
from nblauncher.plan import Plan, Report
from nblauncher.printable import printable


@click.command("snapshot")
@click.option("--unattended", metavar="COURSE", hidden=True, help="What the supervisor runs now and then.")
@acts_on_students
def snapshot_command(call: Call, unattended: str | None) -> int:
    """Keep what everybody's material folder holds now; `history` lists and `restore` brings back."""
    opened = open_session(call) if unattended is None else open_accepted(call, unattended)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()
    runs: list[snapshot.Run] = []

    def make_plan(host: Host) -> Plan:
        plan, run = snapshot.prepare(host, wanted, now=now)
        runs.append(run)
        return plan

    def summary(host: Host, report: Report) -> str:
        return snapshot.summary(runs[-1], report, snapshot.share_of(host))

    details = {**NO_FILES, "changed": 0, "history_bytes": 0, "history_share": 0, "history_above_share": False}
    deed = Deed("kept", summary=summary, details=details, makes_course=unattended is None)
    return change(call, opened, make_plan, deed)


@click.command("watch-disks", hidden=True)
@click.option("--unattended", metavar="COURSE", required=True, help="What the supervisor runs now and then.")
@acts_on_students
def watch_disks_command(call: Call, unattended: str) -> int:
    """Measure everybody's home, for `status`."""
    opened = open_accepted(call, unattended)
    wanted = students_of(opened, call)

    def make_plan(host: Host) -> Plan:
        return disks.plan_watch(wanted, survey.survey(host, wanted))

    return change(call, opened, make_plan, Deed("measured", lock=disks.lock, makes_course=False))


@click.command("history")
@click.argument("name", metavar="NAME")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def history_command(call: Call, name: str, file: str | None, as_json: bool) -> int:
    """List the snapshots of student NAME or, with FILE (below the material folder), the versions of that file."""
    call.command, call.as_json = "history", as_json
    host = about_one(call, name)
    if file is None:
        taken = history.snapshots(host, name)
        counts = host.history.paths(name)
        more: dict[str, Any] = {"snapshots": taken, "paths": counts}
        text = render.history_text(taken, counts, talk.terminal_width())
    else:
        found = history.versions(host, name, history.checked_path(file))
        more = {"versions": found}
        text = render.versions_text(found, talk.terminal_width())
    talk.answer(call, text, 0, **more)
    return 0


@click.command("restore")
@click.argument("name", metavar="NAME")
@click.argument("file", metavar="FILE")
@click.option(
    "--at", "at", required=True, metavar="TIME", help="Such as one that `history` shows; the last snapshot by then."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.pass_obj
def restore_command(call: Call, name: str, file: str, at: str, as_json: bool) -> int:
    """Put the version that FILE of student NAME had at a time beside the present one, never over it."""
    call.command, call.as_json = "restore", as_json
    host = about_one(call, name)
    time, until = time_of(at), time_of(at, moments.last_meant)
    with locked(course_lock(host), f"course {host.settings.course}"):
        copy = history.restore(host, name, history.checked_path(file), until)
    target = host.settings.material.target
    text = f"{name} finds {printable(file)} of {moments.words(time)} in {printable(f'{target}/{copy}')}"
    talk.answer(call, text, 0, path=f"{target}/{copy}")
    return 0
