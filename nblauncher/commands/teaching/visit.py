"""open: a link that opens a student's server for the teacher, once. The student is told."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from nblauncher.commands.deadlines import freeze
from nblauncher.errors import RefusedError
from nblauncher.model import ServerState
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.supervisor import client

VALID = 300
"""Seconds within which the link must be used."""

LASTS = 3600
"""Seconds after which the visit is over."""

_BYTES = 16


@dataclass(frozen=True)
class Link:
    url: str
    server: ServerState


def make_link(host: Host, username: str) -> Link:
    """A new link to this student's server. Its secret is in no file, log or argument list: only its hash leaves here.

    RefusedError when the link would lead nowhere.
    """
    _refuse_unless_usable(host, username)
    supervisor = client.connect(host.paths)
    if supervisor is None:
        raise RefusedError("the class does not run; there is no link", "Run `nblauncher launch`.")
    secret = secrets.token_urlsafe(_BYTES)
    with supervisor:
        found = supervisor.servers((username,))
        if not found or found[0].state in (ServerState.STOPPED, ServerState.FAILED):
            why = f" ({found[0].reason})" if found and found[0].reason else ""
            hint = f"Run `nblauncher launch --only {username}`, then try again."
            raise RefusedError(f"{username}'s server does not run{why}; there is no link", hint)
        digest = hashlib.sha256(secret.encode("ascii")).hexdigest()
        report = supervisor.invite(username, digest, valid=VALID, lasts=LASTS)
    return Link(f"{host.frontend.front_page}open.html#{secret}", report.state)


def end(host: Host, usernames: Sequence[str] | None) -> int:
    """End the visits to these students' servers, and void unused links; None: all. How many there were."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return 0
    with supervisor:
        return supervisor.end_visits(usernames)


def _refuse_unless_usable(host: Host, username: str) -> None:
    if words := freeze.words(host).get(username):
        raise RefusedError(f"{username} is {words}: the server does not answer; there is no link", "Try again then.")
    facts = survey.survey(host, (username,))
    if username in facts.locked_out:
        raise RefusedError(
            f"{username} is locked out; there is no link", f"`nblauncher unlock {username}` lets both of you in."
        )
    if username in facts.locked:
        raise RefusedError(
            f"{username}'s account is locked, because a removal began; there is no link",
            "`nblauncher setup` unlocks it.",
        )
