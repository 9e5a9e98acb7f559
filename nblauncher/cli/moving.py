"""export and import."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nblauncher.cli import terminal
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import CommandSpec, Prepared, answer_report, change, open_session
from nblauncher.cli.help import Command
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.planning.host import Host

_NAMED = 10
"""Files that were left out, on the terminal; --json has more of them, the manifest all."""


@click.command(
    "export",
    cls=Command,
    examples=[
        ("The whole course, for another host", "sudo nblauncher export ../waves-export"),
        ("With the passwords in plain text, to print slips there", "sudo nblauncher export ../waves --with-passwords"),
    ],
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--with-passwords", is_flag=True, help="Also the credentials file, with the passwords in plain text.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def export_command(call: Call, folder: Path, with_passwords: bool, is_dry_run: bool, as_json: bool) -> int:
    """Write the course into the new FOLDER: for `import` on another host, for another system, or as a backup."""
    from nblauncher.commands import session
    from nblauncher.commands.moving import export
    from nblauncher.planning.plan import Report

    call.command, call.is_dry_run, call.as_json = "export", is_dry_run, as_json
    opened = open_session(call, needs_roster=True)
    session.require_root(opened.caller, "export")
    target = Path(os.path.abspath(folder))
    export.refuse(opened, target)
    notes = export.notes(opened.host)
    line = export.described(opened, target, with_passwords=with_passwords)
    if is_dry_run:
        terminal.answer(call, f"export would:\n  {line}", 0, plan=[line], notes=notes)
        return 0
    for note in notes:
        terminal.tell(f"Note: {printable(note)}")
    written = export.write(opened, target, _tells("export: copied"), with_passwords=with_passwords)
    left_out = [f"{path}: {reason}" for path, reason in written.left_out]
    for words in left_out[:_NAMED]:
        terminal.tell(f"Note: left out: {printable(words)}")
    if more := len(left_out[_NAMED:]) + written.more:
        terminal.tell(f"Note: left out: {more} more; the manifest lists them")
    about = {"folder": str(target), "files": written.files, "bytes": written.bytes, "left_out": left_out}
    words = f"Exported {written.files} files, {written.bytes // 1_000_000} MB, into {target}\n{_care(with_passwords)}"
    return answer_report(call, Report.of(()), CommandSpec("", ""), words, about)


def _tells(words: str) -> Callable[[int, int], None]:
    return lambda files, size: terminal.works(f"{words} {files} files, {size // 1_000_000} MB")


def _care(with_passwords: bool) -> str:
    what = "passwords in plain text" if with_passwords else "hashes of passwords"
    return f"It holds students' work and {what}: keep it as safe as this host."


@click.command(
    "import",
    cls=Command,
    examples=[
        ("In the new, empty folder of the course", "sudo nblauncher import ../waves-export"),
        ("On a host where another class has the port", "sudo nblauncher import ../waves-export --port 8200"),
    ],
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.argument("into", required=False, type=click.Path(path_type=Path), metavar="[INTO]")
@click.option("--port", type=click.IntRange(1024, 65000), metavar="PORT", help="web.port on this host.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_obj
def import_command(
    call: Call, folder: Path, into: Path | None, port: int | None, is_dry_run: bool, as_json: bool
) -> int:
    """Take over a course that `export` wrote into FOLDER. INTO is its new, empty folder; by default the present one."""
    from nblauncher.commands import session
    from nblauncher.commands.moving import takeover

    call.command, call.is_dry_run, call.as_json = "import", is_dry_run, as_json
    caller = session.caller(os.environ)
    session.require_root(caller, "import")
    checked = takeover.check(caller, Path(os.path.abspath(folder)), _tells("import: checked"))
    arrival, opened = takeover.open_arrival(caller, checked, Path(os.path.abspath(into or ".")), port)

    def prepare(host: Host) -> Prepared:
        plan = takeover.prepare(host, arrival, opened)
        return Prepared(plan, lambda host, _report: takeover.summary(host, arrival, plan))

    spec = CommandSpec(
        "Imported {students}.",
        "{ratio} students were not imported",
        enrich=lambda _host, usernames: takeover.details(usernames, arrival),
        touches_accounts=True,
    )
    return change(call, opened, prepare, spec)
