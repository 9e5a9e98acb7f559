"""`grade serve`: the formgrader in the foreground, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nblauncher.cli import terminal
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import open_session

if TYPE_CHECKING:
    from nblauncher.commands.grading.serve import Formgrader
    from nblauncher.planning.host import Host


def keep(call: Call) -> int:
    """Open it, say where it is, and stay. The exit code."""
    from nblauncher.commands import session
    from nblauncher.commands.grading import serve

    if call.is_about_some:
        raise click.UsageError("serve concerns the whole class and cannot be combined with --only or --section")
    opened = open_session(call)
    if call.is_dry_run:
        step = f"open the formgrader at {serve.address_of(opened.host).url} as {opened.host.owner.username}"
        terminal.answer(call, f"{step[0].upper()}{step[1:]}, until Ctrl-C.", 0, plan=[step], notes=[])
        return 0
    session.require_root(opened.caller, "grade serve")
    terminal.story("Starting the formgrader ...")
    with serve.opened(opened.host) as formgrader:
        about = formgrader.address
        terminal.answer(
            call,
            _words(opened.host, formgrader),
            0,
            url=about.url,
            tunnel=about.tunnel,
            password=formgrader.password.reveal(),
        )
        try:
            formgrader.watch()
        except KeyboardInterrupt:
            terminal.story("\nClosing the formgrader ...")
    terminal.story("The formgrader is closed. What was graded is in the gradebook.")
    return 0


def _words(host: Host, formgrader: Formgrader) -> str:
    about = formgrader.address
    lines = [f"The formgrader of course {host.settings.course} is open for {host.owner.username}, until Ctrl-C here."]
    if about.tunnel:
        lines.append(f"On your own computer:  {about.tunnel}")
    lines.append(f"In its browser:        {about.url}")
    lines.append(f"Password, this time:   {formgrader.password.reveal()}")
    return "\n".join(lines)
