"""passwd, lock and unlock."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from nblauncher.cli import render, terminal
from nblauncher.cli.call import Call, names
from nblauncher.cli.carry_out import CommandSpec, Prepared, change, open_session
from nblauncher.cli.help import Command

if TYPE_CHECKING:
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Report


def acts_on_named(function: Callable[..., int]) -> Callable[..., int]:
    """The arguments and options of a command for some students, never for the whole class by default."""

    @click.argument("named", nargs=-1, required=True, metavar="NAME...")
    @click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
    @click.pass_context
    @functools.wraps(function)
    def command(context: click.Context, /, named: tuple[str, ...], is_dry_run: bool, as_json: bool, **more: Any) -> int:
        call: Call = context.obj
        call.command = context.info_name or ""
        call.is_dry_run, call.as_json = is_dry_run, as_json
        call.only = names("NAME", named)
        return function(call, tuple(sorted(call.only)), **more)

    return command


@click.command(
    "passwd",
    cls=Command,
    examples=[
        ("A new password for ada; sign-ins with the old one end", "sudo nblauncher passwd ada"),
        ("The password for su and ssh", "sudo nblauncher passwd --system ada"),
        ("Both, for two students", "sudo nblauncher passwd --notebook --system ada bob"),
    ],
)
@click.option("--notebook", is_flag=True, help="The notebook password.  [default, unless --system]")
@click.option("--system", is_flag=True, help="The system password, for su and ssh.")
@acts_on_named
def passwd_command(call: Call, wanted: tuple[str, ...], notebook: bool, system: bool) -> int:
    """Generate new passwords for some students. Who signed in with the old notebook password is out at once."""
    from nblauncher.commands.teaching import passwords

    kinds = {"notebook": notebook or not system, "system": system}
    opened = open_session(call)

    def summarize(host: Host, report: Report) -> str:
        done = [student.username for student in report.done]
        return _passwords_text(host, done, kinds) if done else ""

    spec = CommandSpec(
        "Made new passwords for {students}.",
        "the passwords of {ratio} students were not changed completely",
        enrich=passwords.student_details,
        details={"server": None, "credentials": None},
        touches_accounts=system,
    )
    return change(call, opened, lambda host: Prepared(passwords.prepare(host, wanted, **kinds), summarize), spec)


def _passwords_text(host: Host, usernames: list[str], kinds: dict[str, bool]) -> str:
    """The new passwords, on a terminal only: what goes into a file or another program does not have them."""
    where = f"The credentials file is up to date: {host.settings.credentials}"
    students = "1 student" if len(usernames) == 1 else f"{len(usernames)} students"
    if not sys.stdout.isatty():
        return f"New passwords for {students}. {where}"
    from nblauncher.commands.teaching import passwords

    columns = ("student", *(f"{kind} password" for kind, is_new in kinds.items() if is_new))
    rows = passwords.shown(host, usernames, **kinds)
    return f"{render.table(columns, rows, terminal.terminal_width())}\n\n{where}"


@click.command(
    "lock",
    cls=Command,
    examples=[
        ("Keep ada out, and keep her files", "sudo nblauncher lock ada"),
    ],
)
@acts_on_named
def lock_command(call: Call, wanted: tuple[str, ...]) -> int:
    """Keep students out, and end their servers and processes. Files stay; they can be retrieved."""
    from nblauncher.commands.teaching import lock

    opened = open_session(call)
    now = datetime.now().astimezone()
    spec = CommandSpec(
        "Locked {students}.",
        "{ratio} students were not locked out completely",
        enrich=lock.student_details,
        details={"locked": None, "server": None},
        touches_accounts=True,
    )
    return change(call, opened, lambda host: Prepared(lock.prepare_lock(host, wanted, now)), spec)


@click.command(
    "unlock",
    cls=Command,
    examples=[
        ("Let ada in again, with the same passwords", "sudo nblauncher unlock ada"),
    ],
)
@acts_on_named
def unlock_command(call: Call, wanted: tuple[str, ...]) -> int:
    """Let locked students in again, with the same passwords. In a running class their servers start."""
    from nblauncher.commands.teaching import lock

    opened = open_session(call)
    spec = CommandSpec(
        "Unlocked {students}.",
        "{ratio} students were not unlocked",
        enrich=lock.student_details,
        details={"locked": None, "server": None},
        touches_accounts=True,
    )
    return change(call, opened, lambda host: Prepared(lock.prepare_unlock(host, wanted)), spec)
