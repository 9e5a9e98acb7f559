"""mail: each student's own slip, through the mail server of the config. What was sent is remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nblauncher.auth import hashes
from nblauncher.commands import wording
from nblauncher.commands.teaching import slips
from nblauncher.config.settings import MailSettings, Settings
from nblauncher.config.trusted_files import read_trusted, shown
from nblauncher.errors import HostError, InputError, NblauncherError
from nblauncher.model import ROOT, Account, Roster, Secret
from nblauncher.planning.host import Host
from nblauncher.planning.plan import ForOne, Phase, Plan
from nblauncher.slips import sending
from nblauncher.slips.letter import Sender
from nblauncher.slips.post import MailServer
from nblauncher.slips.sending import Round
from nblauncher.system import interruption, mail_address, root_files, workers

_ANSWER = 600.0
"""Seconds for one mail, connection and login included."""
_LAST_ANSWER = 70.0
_LONGEST = 24 * 3600.0
_MOST_SECRET = 4096
_MOST_AUTHORITY = 1 << 20


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    subject: str = ""
    is_again: bool = False


@dataclass(frozen=True)
class MailSlip(ForOne):
    """One student's mail. The mail server's answer decides whether it counts as sent."""

    address: str
    identity: str
    connection: Connection = field(compare=False, repr=False)

    def describe(self) -> str:
        return f"mail {self.username} at {self.address}"

    def apply(self, host: Host) -> None:
        self.connection.send(host, self.username, lambda: self._remember(host))

    def _remember(self, host: Host) -> None:
        entry = {"password": self.identity, "address": self.address, "time": _now().isoformat(timespec="seconds")}
        root_files.replace(
            host.paths.mailed, json.dumps({**_mailed(host), self.username: entry}, indent=0), durable=True
        )


@dataclass(frozen=True)
class LeaveOut(ForOne):
    """A student to whom nothing can be sent."""

    why: str

    def describe(self) -> str:
        return f"leave out {self.username}: {self.why}"

    def apply(self, host: Host) -> None:
        raise HostError(self.why)


class Connection:
    """The child that sends. It is started for the first mail, and `close` ends it."""

    def __init__(self, students: Roster, wish: Wish) -> None:
        self._students = students
        self._wish = wish
        self._worker: workers.Worker | None = None
        self._requests = self._answers = -1
        self._failure: NblauncherError | None = None
        """Why the child could not begin. The others need not try."""

    def send(self, host: Host, username: str, remember: Callable[[], None]) -> None:
        """HostError if the mail was not sent. A signal is obeyed once this mail's fate is known and remembered."""
        if self._failure is not None:
            raise self._failure
        if self._worker is None:
            try:
                self._start(host)
            except NblauncherError as error:
                self._failure = error
                raise
        workers.write_frame(self._requests, {"username": username})
        was_interrupted = False
        try:
            ready = interruption.wait([self._answers], _ANSWER)
        except KeyboardInterrupt:
            was_interrupted = True
            poller = select.poll()
            poller.register(self._answers, select.POLLIN)
            ready = [self._answers] if poller.poll(_LAST_ANSWER * 1000) else []
        why = self._why(ready)
        if not why:
            remember()
        if was_interrupted:
            raise KeyboardInterrupt
        if why:
            raise HostError(slips.UNKNOWN if why == sending.UNKNOWN else why)

    def close(self) -> None:
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._answers = -1
        worker, self._worker = self._worker, None
        if worker is not None:
            with contextlib.suppress(NblauncherError):  # it says goodbye to the mail server
                worker.result(10.0)

    def _why(self, ready: Sequence[int]) -> str:
        frame = workers.read_frame(self._answers) if ready else None
        if frame is None:
            self.close()
            return "the mail server did not answer in time" if not ready else "the child that sends mails ended"
        return str(frame.header["why"])

    def _start(self, host: Host) -> None:
        """HostError, InputError or RefusedError of the child, if it cannot begin."""
        students = slips.set_up(host, self._students)
        hashed = hashes.read(host.paths.hashes)
        round_ = Round(
            course=slips.course_of(host),
            slips=slips.made(host, students),
            addresses=_addresses(students),
            identities={name: _identity(hashed[name]) for name in students.usernames},
            sender=_sender(host.settings, self._wish),
            credentials=host.settings.credentials,
            hashes=hashed,
            is_again=self._wish.is_again,
        )
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        try:
            self._worker = workers.start(
                ROOT,
                _begin,
                requests,
                answers,
                round_,
                host.owner,
                slips.unprivileged(host.owner),
                host.settings.mail,
                keep=(requests, answers),
            )
        finally:
            os.close(requests)
            os.close(answers)
        if workers.read_frame(self._answers, _ANSWER) is None:
            worker, self._worker = self._worker, None
            self.close()
            worker.result(10.0)
            raise HostError("the child that sends mails ended")


def plan(host: Host, students: Roster, connection: Connection, wish: Wish) -> Plan:
    """A mail for every student to whom the present password was not sent yet. InputError without a mail server."""
    if host.settings.mail.host is None:
        raise InputError(
            "mail.host is missing in the config: through which mail server?",
            "Write mail.host and mail.from, and mail.login if it wants a login. Nothing was sent.",
        )
    mailed = _mailed(host)
    hashed = hashes.read(host.paths.hashes)
    ready = slips.set_up(host, students)
    addresses = _addresses(students)
    steps: list[MailSlip | LeaveOut] = []
    for student in students:
        name = student.username
        if name not in ready.usernames:
            steps.append(LeaveOut(name, slips.NOT_SET_UP))
        elif name not in addresses:
            why = "has no mail address in the roster" if not student.email.strip() else "the address is not one"
            steps.append(LeaveOut(name, why))
        elif wish.is_again or not _is_sent(mailed.get(name, {}), addresses[name], hashed[name]):
            steps.append(MailSlip(name, addresses[name], _identity(hashed[name]), connection))
    phases = (Phase("mail slips", tuple(steps)),) if steps else ()
    return Plan(phases, tuple(_shared({step.username: step.address for step in steps if isinstance(step, MailSlip)})))


def student_details(host: Host, students: Roster) -> dict[str, dict[str, Any]]:
    """To which address, and when the present password was sent there; for the report."""
    mailed, hashed, addresses = _mailed(host), hashes.read(host.paths.hashes), _addresses(students)
    return {
        name: {
            "address": addresses.get(name),
            "mailed": entry["time"] if _is_sent(entry, addresses.get(name, ""), hashed.get(name, "")) else None,
        }
        for name in students.usernames
        for entry in (mailed.get(name, {}),)
    }


def check(host: Host) -> None:
    """InputError or RefusedError if the files that the config names for the mail server are not as they must be."""
    workers.run_as(ROOT, _check, host.settings.mail, host.owner)


def lock(host: Host) -> Path:
    """Its own: mailing a class takes minutes and changes nothing that other commands look at."""
    return host.paths.state / "mail.lock"


def _shared(addresses: Mapping[str, str]) -> Iterator[str]:
    """A line for each address of several students: a slip may be somebody else's because of a typing error."""
    of: dict[str, list[str]] = {}
    for name, address in addresses.items():
        of.setdefault(address.casefold(), []).append(name)
    yield from (f"{', '.join(names)} have the same address, {address}" for address, names in of.items() if names[1:])


def _begin(requests: int, answers: int, round_: Round, owner: Account, account: Account, mail: MailSettings) -> None:
    """As root: read the login, which is in no other process of root's, and become the teacher."""
    server = _server(mail, owner)
    workers.run_as(
        owner, sending.serve, requests, answers, round_, server, account, keep=(requests, answers), timeout=_LONGEST
    )


def _check(mail: MailSettings, owner: Account) -> None:
    _server(mail, owner)


def _server(mail: MailSettings, owner: Account) -> MailServer:
    allowed = frozenset({0, owner.uid})
    username, password, authority = "", Secret(""), b""
    if mail.login is not None:
        content = read_trusted(mail.login, allowed_uids=allowed, max_bytes=_MOST_SECRET, is_secret=True)
        username, password = _login(mail.login, content)
    if mail.authority is not None:
        authority = read_trusted(mail.authority, allowed_uids=allowed, max_bytes=_MOST_AUTHORITY)
    return MailServer(mail.host or "", mail.real_port, mail.security, authority, username, password)


def _login(file: Path, content: bytes) -> tuple[str, Secret]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = []
    if len(lines) != 2 or not all(line.isprintable() and line.strip() for line in lines):
        raise InputError(
            f"{shown(file)} is not a login: it has the name in its first line, the password in its second, and no more",
            "Nothing was sent.",
        )
    return lines[0].strip(), Secret(lines[1])


def _sender(settings: Settings, wish: Wish) -> Sender:
    name, address = settings.mail.sender or ("", "")
    reply_to = settings.mail.reply_to[1] if settings.mail.reply_to else ""
    return Sender(name, address, reply_to, wish.subject or _usual_subject(settings))


def _usual_subject(settings: Settings) -> str:
    """One line, whatever stands in a text of the teacher's."""
    words = wording.appearance(settings).words.plain("mail_subject", course=settings.course)
    return " ".join(words.split())


def _addresses(students: Roster) -> dict[str, str]:
    found = {}
    for student in students:
        with contextlib.suppress(ValueError):
            found[student.username] = mail_address.address(student.email)
    return found


def _mailed(host: Host) -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads(host.paths.mailed.read_text("ascii")))
    except FileNotFoundError:
        return {}


def _is_sent(entry: Mapping[str, str], address: str, hashed: str) -> bool:
    return bool(entry) and (entry["password"], entry["address"]) == (_identity(hashed), address)


def _identity(hashed: str) -> str:
    """Tells one password of a student from the next, and nothing about it: each hash has a salt."""
    return hashlib.sha256(hashed.encode()).hexdigest()[:16]


def _now() -> datetime:
    return datetime.now(timezone.utc).astimezone()
