"""What commands about one student, or about a time, are asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import click

from nblauncher import moments
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import open_session
from nblauncher.commands import session
from nblauncher.errors import InputError
from nblauncher.host import Host
from nblauncher.printable import printable


def about_one(call: Call, name: str) -> Host:
    """The course's host, for a command about one student; InputError when there is no such student."""
    opened = open_session(call)
    session.require_root(opened.caller, call.command)
    if name not in opened.host.ledger.members(opened.settings.course):
        raise InputError(f'there is no student "{printable(name)}" in course {opened.settings.course}')
    return opened.host


def time_of(text: str, meaning: Callable[[str], datetime] = moments.parsed) -> datetime:
    try:
        return meaning(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--at") from None
