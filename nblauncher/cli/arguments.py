"""Arguments that name one student or a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import near, open_session
from nblauncher.errors import InputError
from nblauncher.printable import printable

if TYPE_CHECKING:
    from nblauncher.planning.host import Host


def about_one(call: Call, name: str) -> Host:
    """The course's host, for a command about one student; InputError when there is no such student."""
    from nblauncher.commands import session

    opened = open_session(call)
    session.require_root(opened.caller, call.command)
    known = tuple(opened.host.ledger.members(opened.settings.course))
    if name not in known:
        problem = f'there is no student "{printable(name)}" in course {opened.settings.course}'
        raise InputError(problem, near((name,), known))
    return opened.host


def time_of(text: str, meaning: Callable[[str], datetime] | None = None) -> datetime:
    """`meaning` is a function of config.times; `parsed` where none is given."""
    from nblauncher.config import times

    try:
        return (meaning or times.parsed)(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--at") from None
