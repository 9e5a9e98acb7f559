"""How a server on a node takes the requests of the class's host, and answers them. Runs in the student's process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tornado import web

from nblauncher.server import activity, host_requests
from nblauncher.server.host_requests import HEADER, MOST_KERNELS, HostAnswer, HostRequest
from nblauncher.server.job_memory import JobMemory
from nblauncher.server.notice_board import NoticeBoard
from nblauncher.system.seals import Seals

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """What a server knows of its kernels."""

    def kernels(self) -> tuple[int, int]: ...

    async def end_kernels(self) -> int: ...


@dataclass
class HostLink:
    """Of one start of the server, which `run` names. `password` returns the hash of the notebook password, and `renew`
    is called with another one.
    """

    run: str
    username: str
    password: Callable[[], str]
    renew: Callable[[str], None]
    file: Path
    """The student's notices, which the board reads."""
    board: NoticeBoard
    activity: activity.Activity
    memory: JobMemory = field(default_factory=JobMemory)
    reporter: Reporter | None = None
    """None until the server listens."""
    seals: Seals = field(default_factory=Seals)
    _ended: str = ""
    _ended_kernels: int = 0

    def is_sealed(self, seal: str, body: bytes) -> bool:
        about = {"hashed_password": self.password(), "username": self.username, "run": self.run}
        return host_requests.is_sealed(self.seals, seal, body=body, **about)

    async def take(self, asked: HostRequest) -> HostAnswer:
        """Show what the student is told, end the kernels if that was not done for this wish yet, and take over another
        password: every sign-in so far ends with it. OSError.
        """
        self._show(asked.notices)
        if asked.hashed_password:
            self.renew(asked.hashed_password)
            log.warning("The password was changed: every sign-in so far has ended.")
        count, busy = (0, 0) if self.reporter is None else self.reporter.kernels()
        if self.reporter is not None and asked.end_kernels not in ("", self._ended):
            self._ended = asked.end_kernels  # before anything is awaited: a second request comes meanwhile
            self._ended_kernels = await self.reporter.end_kernels()
        counts = self.activity.counts
        return HostAnswer(
            min(count, MOST_KERNELS),
            min(busy, MOST_KERNELS),
            saves=counts[activity.SAVED],
            uses=counts[activity.USED],
            sign_ins=counts[activity.SESSION],
            memory=self.memory.bytes(),
            ended=self._ended,
            ended_kernels=min(self._ended_kernels, MOST_KERNELS),
        )

    def _show(self, notices: bytes) -> None:
        """Replace the file as root does on the class's host."""
        try:
            if self.file.read_bytes() == notices:
                return
        except OSError:  # it is not there yet, or the student has spoilt it
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
        new = self.file.with_name(f"{self.file.name}.new")
        new.write_bytes(notices)
        new.replace(self.file)
        self.board.look()


class HostHandler(web.RequestHandler):
    """`POST nblauncher/host`. Whatever is not sealed learns nothing."""

    def initialize(self, link: HostLink) -> None:
        self._link = link

    def check_xsrf_cookie(self) -> None:
        """The seal replaces it."""

    async def post(self) -> None:
        body = self.request.body
        if not self._link.is_sealed(self.request.headers.get(HEADER, ""), body):
            raise web.HTTPError(403)
        try:
            answer = await self._link.take(HostRequest.parse(body))
        except OSError as error:
            log.error("the notices for this student cannot be written: %s", error)
            raise web.HTTPError(500) from error
        self.set_header("Content-Type", "application/json")
        self.finish(answer.to_bytes())
