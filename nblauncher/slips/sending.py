"""The child that sends mails: a username in, what became of that mail out. Root never sees what is in them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from nblauncher.model import Account
from nblauncher.printable import printable
from nblauncher.slips import known, letter
from nblauncher.slips.letter import Sender
from nblauncher.slips.post import MailServer, Post, Unsent, Useless
from nblauncher.slips.slip import Course, Slip
from nblauncher.system import workers

UNKNOWN = "unknown"
"""Why no mail was made: the password is not known."""

_LONGEST = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Round:
    """The mails that may be asked for."""

    course: Course
    slips: Sequence[Slip]
    addresses: Mapping[str, str]
    identities: Mapping[str, str]
    """Of each student's present password: a mail that is sent twice can be told by it."""
    sender: Sender
    credentials: Path
    hashes: Mapping[str, str]
    is_again: bool = False


def serve(requests: int, answers: int, round_: Round, server: MailServer, account: Account) -> None:
    """Runs as the teacher. Mails are made and sent as `account`, which is the teacher's unless that is root."""
    slips = known.filled(round_.slips, round_.credentials, round_.hashes)
    if account.uid == os.geteuid():
        _send_on_request(requests, answers, round_, slips, server)
    else:
        arguments = (requests, answers, round_, slips, server)
        workers.run_as(account, _send_on_request, *arguments, keep=(requests, answers), timeout=_LONGEST)


def _send_on_request(requests: int, answers: int, round_: Round, slips: Sequence[Slip], server: MailServer) -> None:
    by_name = {slip.username: slip for slip in slips}
    post = Post(server, round_.sender.address)
    workers.write_frame(answers, {"ready": True})
    while (request := workers.read_frame(requests)) is not None:
        workers.write_frame(answers, _sent(post, round_, by_name[str(request.header["username"])]))
    post.close()


def _sent(post: Post, round_: Round, slip: Slip) -> dict[str, object]:
    """`why` is empty if the server took the mail over; `is_useless`: no other will be sent either."""
    if not slip.notebook_password.reveal():
        return {"why": UNKNOWN, "is_useless": False}
    to = round_.addresses[slip.username]
    identity = round_.identities[slip.username] + (f".{secrets.token_hex(4)}" if round_.is_again else "")
    try:
        post.send(to, letter.message(round_.course, slip, to, round_.sender, identity, datetime.now(timezone.utc)))
    except Unsent as error:
        return {"why": printable(str(error)), "is_useless": isinstance(error, Useless)}
    return {"why": "", "is_useless": False}
