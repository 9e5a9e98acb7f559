"""The front page's link to the supervisor: JSON lines over the inherited socket. It closes when the class ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from nblauncher.model import ServerState

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds to wait for an answer."""

_MAX_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class _Report:
    """What the supervisor reports about a student's server."""

    state: ServerState
    reason: str = ""
    own: tuple[tuple[str, datetime], ...] = ()
    told: tuple[Told, ...] = ()
    username: str = ""
    visit: str = ""
    queue: Queue | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """Where a student's job is in the cluster's queue, why it waits, and when the cluster expects to start it."""

    place: int
    kind: str
    starts_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A message of the teacher's, shown until this time; None: until it is cleared."""

    text: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The teacher's link was good: whose server it opens, and the visit's name."""

    username: str
    visit: str


class SupervisorLink:
    """Asks for the state of students' servers. `ended` is set when the supervisor is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[_Report]] = {}
        self.ended = asyncio.Event()
        self.deadlines: tuple[tuple[str, datetime], ...] = ()
        """Folder and time of the class's deadlines, as the supervisor sent them last."""
        self._message: Told | None = None
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def over(cls, connection: socket.socket) -> SupervisorLink:
        """The link over an inherited, connected stream socket."""
        return cls(*await asyncio.open_unix_connection(sock=connection, limit=_MAX_LINE))

    def say_ready(self) -> None:
        """Report to the supervisor that requests are answered now."""
        self._send({"ready": True})

    async def state(self, username: str, *, patience: float = PATIENCE) -> ServerState:
        """The state of the student's server; UNKNOWN if the supervisor does not answer within `patience` seconds."""
        return (await self._ask("state", username, patience)).state

    async def reason(self, username: str, *, patience: float = PATIENCE) -> str:
        """The reason for the state, as in `status`; empty if there is none or the supervisor does not answer."""
        return (await self._ask("state", username, patience)).reason

    async def queue(self, username: str, *, patience: float = PATIENCE) -> Queue | None:
        """None for a student whose server does not wait for a node."""
        return (await self._ask("state", username, patience)).queue

    async def own_deadlines(self, username: str, *, patience: float = PATIENCE) -> tuple[tuple[str, datetime], ...]:
        """Folder and time of this student's own deadlines, which only that student may see."""
        return (await self._ask("state", username, patience)).own

    @property
    def message(self) -> Told | None:
        """The teacher's message for the whole class, while it is shown."""
        shown = _shown_now((self._message,) if self._message is not None else ())
        return shown[0] if shown else None

    async def told(self, username: str, *, patience: float = PATIENCE) -> tuple[Told, ...]:
        """The teacher's messages for this student, the class's included."""
        return _shown_now((await self._ask("state", username, patience)).told)

    async def admit(self, digest: str, client: str, *, patience: float = PATIENCE) -> Admitted | None:
        """Use up the teacher's link with this digest; None if it is not valid."""
        report = await self._put({"ask": "visit", "digest": digest, "client": client}, patience)
        return Admitted(report.username, report.visit) if report.username and report.visit else None

    async def wake(self, username: str, *, patience: float = PATIENCE) -> ServerState:
        """As `state`, and start the server if it sleeps."""
        return (await self._ask("wake", username, patience)).state

    async def _ask(self, ask: str, username: str, patience: float) -> _Report:
        return await self._put({"ask": ask, "username": username}, patience)

    async def _put(self, question: Mapping[str, str], patience: float) -> _Report:
        number = next(self._numbers)
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        self._send({**question, "id": number})
        try:
            return await asyncio.wait_for(answer, patience)
        except asyncio.TimeoutError:
            return _Report(ServerState.UNKNOWN)
        finally:
            del self._pending[number]

    async def close(self) -> None:
        self._listening.cancel()
        self._writer.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self.ended.is_set():
            self._writer.write(json.dumps(message).encode("ascii") + b"\n")

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self._receive(line)
        except (OSError, ValueError):
            # ValueError: a line beyond the limit, which a supervisor never sends.
            log.error("the link to the supervisor broke")
        finally:
            self.ended.set()

    def _receive(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if "deadlines" in message:
                self.deadlines = _deadlines_in(message["deadlines"])
                return
            if "message" in message:
                given = message["message"]
                self._message = None if given is None else _told_in(given)
                return
            answer = self._pending.get(message["id"])
            about = _Report(
                ServerState(message["state"]),
                str(message.get("reason", "")),
                _deadlines_in(message.get("own", [])),
                tuple(map(_told_in, message.get("told", []))),
                str(message.get("username", "")),
                str(message.get("visit", "")),
                _queue_in(message.get("queue")),
            )
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            log.warning("the supervisor sent a message that is not an answer")
            return
        if answer is not None and not answer.done():
            answer.set_result(about)


def _deadlines_in(given: Any) -> tuple[tuple[str, datetime], ...]:
    return tuple((str(folder), datetime.fromtimestamp(time, timezone.utc)) for folder, time in given)


def _queue_in(given: Any) -> Queue | None:
    if given is None:
        return None
    starts_at = float(given["starts_at"])
    return Queue(
        int(given["place"]), str(given["kind"]), datetime.fromtimestamp(starts_at, timezone.utc) if starts_at else None
    )


def _told_in(given: Any) -> Told:
    text, until = given
    return Told(str(text), None if until is None else datetime.fromtimestamp(until, timezone.utc))


def _shown_now(told: tuple[Told, ...]) -> tuple[Told, ...]:
    now = datetime.now(timezone.utc)
    return tuple(one for one in told if one.until is None or one.until > now)
