"""The front page's line to the supervisor: JSON lines over the inherited socket. Its end is the end of the class."""

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
class _Said:
    """What the supervisor says of a student's server."""

    state: ServerState
    reason: str = ""
    own: tuple[tuple[str, datetime], ...] = ()


class SupervisorLink:
    """Asks how a student's server is. `ended` is set when the supervisor is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[_Said]] = {}
        self.ended = asyncio.Event()
        self.deadlines: tuple[tuple[str, datetime], ...] = ()
        """Folder and time of the class's deadlines, as the supervisor said last."""
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def over(cls, connection: socket.socket) -> SupervisorLink:
        """The link over an inherited, connected stream socket."""
        return cls(*await asyncio.open_unix_connection(sock=connection, limit=_MAX_LINE))

    def say_ready(self) -> None:
        """Tell the supervisor that requests are answered now."""
        self._send({"ready": True})

    async def state(self, username: str, *, patience: float = PATIENCE) -> ServerState:
        """How the student's server is; UNKNOWN when the supervisor does not say within `patience` seconds."""
        return (await self._ask("state", username, patience)).state

    async def reason(self, username: str, *, patience: float = PATIENCE) -> str:
        """Why it is so, in the words of `status`; empty when there is no more to say or the supervisor does not."""
        return (await self._ask("state", username, patience)).reason

    async def own_deadlines(self, username: str, *, patience: float = PATIENCE) -> tuple[tuple[str, datetime], ...]:
        """Folder and time where this student's moment is not the class's; for that student's eyes only."""
        return (await self._ask("state", username, patience)).own

    async def wake(self, username: str, *, patience: float = PATIENCE) -> ServerState:
        """As `state`, and a server that sleeps is started."""
        return (await self._ask("wake", username, patience)).state

    async def _ask(self, ask: str, username: str, patience: float) -> _Said:
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"ask": ask, "username": username, "id": number})
        try:
            return await asyncio.wait_for(answer, patience)
        except asyncio.TimeoutError:
            return _Said(ServerState.UNKNOWN)
        finally:
            del self._asked[number]

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
            # ValueError: a line beyond the limit. Whoever sends that is not the supervisor we know.
            log.error("the line to the supervisor broke")
        finally:
            self.ended.set()

    def _receive(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            if "deadlines" in said:
                self.deadlines = _deadlines_in(said["deadlines"])
                return
            answer = self._asked.get(said["id"])
            own = _deadlines_in(said.get("own", []))
            about = _Said(ServerState(said["state"]), str(said.get("reason", "")), own)
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            log.warning("the supervisor said something that is no answer")
            return
        if answer is not None and not answer.done():
            answer.set_result(about)


def _deadlines_in(given: Any) -> tuple[tuple[str, datetime], ...]:
    return tuple((str(folder), datetime.fromtimestamp(time, timezone.utc)) for folder, time in given)
