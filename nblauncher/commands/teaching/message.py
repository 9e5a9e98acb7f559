"""message: what the teacher says to the class, shown above every notebook and on the front page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from nblauncher.config import times
from nblauncher.errors import InputError, RefusedError
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.server.notices import LONGEST
from nblauncher.supervisor import client
from nblauncher.supervisor.specs import ServerReport

LATEST = timedelta(days=7)

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3])[:.]([0-5][0-9])")
_JOINERS = "\u200c\u200d"
"""Invisible, but part of words in Persian, Hindi and other languages, and of emoji."""


def checked_text(text: str) -> str:
    """The message in one line. InputError for an empty or long one, and for characters that control or reorder it."""
    found = " ".join(part for part in text.split(" ") if part)
    if not found:
        raise InputError("the message is empty; nothing was said", "To remove one: `nblauncher message --clear`.")
    if len(found) > LONGEST:
        raise InputError(f"the message has {len(found)} characters; at most {LONGEST} fit; nothing was said")
    for character in found:
        if not character.isprintable() and character not in _JOINERS:
            raise InputError(
                f"the message contains {printable(character)}, which controls how text is shown; nothing was said",
                "Write it in one line of plain text.",
            )
    return found


def checked_until(text: str, now: datetime) -> datetime:
    """`10:45` (the next time that the host's clock shows it), a whole time, or a length such as 20m.

    InputError for anything else, for a time that is over, and for one more than a week away.
    """
    try:
        found = _moment(text.strip(), now.replace(microsecond=0))
    except ValueError:
        raise InputError(
            f'--until: "{printable(text[:60])}" is not a time such as 10:45, 2026-11-27 10:45 or 20m; nothing was said'
        ) from None
    if not now < found <= now + LATEST:
        raise InputError(f"--until: {times.short(found)} is over, or more than a week away; nothing was said")
    return found


def _moment(text: str, now: datetime) -> datetime:
    if clock := _CLOCK.fullmatch(text):
        day = now.astimezone().date()
        hours, minutes = clock.groups()
        wanted = f"{int(hours):02}:{minutes}"
        found = times.parsed(f"{day} {wanted}")
        return found if found > now else times.parsed(f"{day + timedelta(days=1)} {wanted}")
    try:
        return times.parsed(text)
    except ValueError:
        if ":" in text:  # 25:00 is not a length here, but a mistyped clock
            raise
        return now + times.length(text)


def say(host: Host, usernames: Sequence[str] | None, text: str, until: datetime | None) -> tuple[ServerReport, ...]:
    """Show the message to these students, None: to the class and on the front page; no text clears.

    Returns reports on the servers that show it, also those that sleep. RefusedError when the class does not run.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        raise RefusedError("the class does not run: there is no page to show it on", "Run `nblauncher launch`.")
    with supervisor:
        return supervisor.say(usernames, text, None if until is None else int(until.timestamp()))
