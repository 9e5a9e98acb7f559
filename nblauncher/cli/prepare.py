"""init, check and setup."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nblauncher.cli import render, terminal
from nblauncher.cli.call import Call, acts_on_students, names
from nblauncher.cli.carry_out import (
    NO_MATERIAL,
    CommandSpec,
    Prepared,
    change,
    open_session,
    students_of,
)
from nblauncher.cli.help import Command
from nblauncher.model import Roster

if TYPE_CHECKING:
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Plan, Report


@click.command(
    "init",
    cls=Command,
    examples=[
        ("A new course in the folder waves", "nblauncher init waves"),
    ],
)
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.pass_obj
def init_command(call: Call, folder: Path) -> int:
    """Write a sample notebooks.cfg and students.csv into FOLDER. Existing files are never overwritten."""
    from nblauncher.commands import init, session

    call.command = "init"
    caller = session.caller(os.environ)
    written = init.write_samples(folder.absolute(), caller.person if caller.is_root else None)
    terminal.answer(call, "\n".join(f"wrote {path}" for path in written), 0)
    return 0


@click.command(
    "check",
    cls=Command,
    examples=[
        ("Before the first class", "sudo nblauncher check"),
        ("Attack a throw-away student beside the running class", "sudo nblauncher check --security"),
        ("Can every student sign in?", "sudo nblauncher check --logins"),
    ],
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[STUDENTS.CSV] [CONFIG]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--security", is_flag=True, help="Attack a throw-away student beside the running class.")
@click.option("--logins", is_flag=True, help="Sign in as each student, with su and at the front page.")
@click.option("--only", multiple=True, metavar="NAME[,NAME...]", help="With --logins: these students only.")
@click.pass_obj
def check_command(
    call: Call, files: tuple[Path, ...], as_json: bool, security: bool, logins: bool, only: tuple[str, ...]
) -> int:
    """Say whether the class can start here and, if not, what to do. Changes nothing."""
    from nblauncher.commands import check, check_facts, session

    if (only and not logins) or (logins and security):
        raise click.UsageError("--only goes with --logins, and --logins goes alone")
    call.command, call.files, call.as_json, call.only = "check", files, as_json, names("--only", only)
    about: dict[str, object] = {}
    if logins:
        from nblauncher.preflight import logins as sign_ins

        opened = open_session(call)
        session.require_root(opened.caller, "check --logins")
        wanted = students_of(opened, call)
        terminal.works(f"check --logins: signing in as {len(wanted)} students")
        found = sign_ins.tried(opened.host, wanted)
        findings, verdict = sign_ins.findings(found), sign_ins.verdict(found)
        about = {"logins": [login.entry() for login in found]}
    elif security:
        from nblauncher.preflight import trial

        opened = open_session(call)
        session.require_root(opened.caller, "check --security")
        terminal.works("check --security: attacking a throw-away student (a minute or two)")
        findings = trial.findings(replace(opened.host, tell=terminal.works))
        verdict = trial.verdict(findings)
    else:
        terminal.works("check: looking at the config, the roster and this host")
        caller = session.caller(os.environ)
        findings = check_facts.findings(caller, call.config, files)
        verdict = check.verdict(findings, is_root=caller.is_root)
    is_good = check.is_good(findings)
    problems = [f"{finding.subject}: {finding.message}" for finding in findings if finding.level == "problem"]
    terminal.answer(
        call,
        f"{render.findings_text(findings)}\n\n{verdict}",
        0 if is_good else 1,
        status="ok" if is_good else "failed",
        errors=problems,
        findings=[render.finding_entry(finding) for finding in findings],
        verdict=verdict,
        **about,
    )
    return 0 if is_good else 1


@click.command(
    "setup",
    cls=Command,
    examples=[
        ("Create everything that is missing", "sudo nblauncher setup"),
        ("Show the plan and change nothing", "sudo nblauncher setup --dry-run"),
        ("Another roster than the config names", "sudo nblauncher setup group-b.csv"),
    ],
)
@click.option("--take-over", is_flag=True, help="Use this config instead of the one the course was set up with.")
@acts_on_students
def setup_command(call: Call, take_over: bool) -> int:
    """Create every student's missing account, passwords and material. Changes nothing that is there."""
    from nblauncher.commands import setup

    opened = open_session(call, needs_roster=True, takes_over=take_over)
    wanted = (opened.roster or Roster()).only(students_of(opened, call))

    def prepare(host: Host) -> Prepared:
        plan = setup.prepare(host, wanted, opened)
        return Prepared(plan, functools.partial(_after_setup, plan))

    spec = CommandSpec(
        "Set up {students}.",
        "{ratio} students were not set up",
        enrich=setup.student_details,
        details={"uid": None, "home": None, "port": None, "url": None, **NO_MATERIAL},
        touches_accounts=True,
        with_front_page=True,
    )
    return change(call, opened, prepare, spec)


def _after_setup(plan: Plan, host: Host, report: Report) -> str:
    """How many were set up, where the passwords are, and whether a running class needs a `reload`."""
    from nblauncher.commands.running import reload

    done = [student.username for student in report.done]
    words = ""
    if done:
        students = "1 student" if len(done) == 1 else f"{len(done)} students"
        words = f"Set up {students}. The passwords are in {host.settings.credentials}"
    elif not plan.is_empty and not report.failed:
        words = "No student is new."
    if not reload.is_needed(host, done):
        return words
    words = words or "setup: nothing to do."
    return f"{words}\nThe class is running: `nblauncher reload` brings it up to date."
