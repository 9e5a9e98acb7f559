"""shutdown and remove."""

from __future__ import annotations

import functools
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from nblauncher.cli import render
from nblauncher.cli.call import Call, acts_on_students, names
from nblauncher.cli.carry_out import (
    NO_FILES,
    STOPPED,
    CommandSpec,
    Prepared,
    change,
    open_session,
    students_of,
)
from nblauncher.cli.help import Command

if TYPE_CHECKING:
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Plan


@click.command(
    "shutdown",
    cls=Command,
    examples=[
        ("End the class", "sudo nblauncher shutdown"),
        ("Stop one server", "sudo nblauncher shutdown --only ada"),
    ],
)
@acts_on_students
def shutdown_command(call: Call) -> int:
    """Stop the class's servers and what they started, and no other process."""
    from nblauncher.commands.running import shutdown

    opened = open_session(call)
    wanted = students_of(opened, call)

    def prepare(host: Host) -> Prepared:
        plan = shutdown.prepare(host, wanted, whole_class=not call.only)
        return Prepared(plan, lambda _host, report: shutdown.summary(report))

    spec = CommandSpec(
        "Stopped {servers}.", "{ratio} servers were not stopped", enrich=shutdown.student_details, details=STOPPED
    )
    return change(call, opened, prepare, spec)


@click.command(
    "remove",
    cls=Command,
    examples=[
        ("Show what would be deleted", "sudo nblauncher remove --dry-run"),
        ("Remove one student", "sudo nblauncher remove --only ada"),
    ],
)
@click.option(
    "--claim", multiple=True, metavar="NAME[,NAME...]", help="Delete this account too, although it was changed by hand."
)
@click.option(
    "--despite-incomplete",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Delete this home although part of it could not be retrieved.",
)
@acts_on_students
def remove_command(call: Call, claim: tuple[str, ...], despite_incomplete: tuple[str, ...]) -> int:
    """Retrieve and verify whole homes, then delete what `setup` made."""
    from nblauncher.commands import remove

    claimed, despite = names("--claim", claim), names("--despite-incomplete", despite_incomplete)
    opened = open_session(call)
    wanted = students_of(opened, call)
    now = datetime.now().astimezone()

    def prepare(host: Host) -> Prepared:
        plan, run = remove.prepare(host, wanted, claimed, despite, now)
        return Prepared(plan, functools.partial(remove.summary, run))

    gone: dict[str, Any] = {"deleted": [], "schedules": [], "left": [], "not_searched": []}
    details = {**NO_FILES, **STOPPED, **gone}
    spec = CommandSpec(
        "Removed {students}.",
        "{ratio} students were not removed",
        details=details,
        is_destructive=True,
        warning=functools.partial(_warning, opened.host),
        touches_accounts=True,
    )
    return change(call, opened, prepare, spec)


def _warning(host: Host, plan: Plan) -> str:
    from nblauncher.commands.deletion import DeleteAccount

    names = {step.username for step in plan.steps if isinstance(step, DeleteAccount)}
    return deletes_words(len(names), _size(host, names)) if names else ""


def deletes_words(count: int, size: int | None) -> str:
    """Before the question of `remove`."""
    accounts = "1 account and its home" if count == 1 else f"{count} accounts and their homes"
    known = "" if size is None else f" ({render.bytes_text(size)})"
    return f"This deletes {accounts}{known}, which is final. What was retrieved stays."


def _size(host: Host, names: Collection[str]) -> int | None:
    from nblauncher.commands import disks

    claims = host.ledger.claims()
    return disks.total(host, {name: claims[name].account for name in names if name in claims})
