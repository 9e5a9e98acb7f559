"""What the supervisor does for a course: the requests, and the end."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher import __version__
from nblauncher.cgroups import Groups
from nblauncher.course import CoursePaths
from nblauncher.descriptors import is_sealed, open_private_folder
from nblauncher.errors import HostError
from nblauncher.model import ServerState
from nblauncher.spawners import Order, Spawner, server_environment
from nblauncher.supervisor import registry
from nblauncher.supervisor.front import FrontPage
from nblauncher.supervisor.loop import Loop
from nblauncher.supervisor.requests import Answer, Handler
from nblauncher.supervisor.seats import Seat, Seats
from nblauncher.supervisor.specs import (
    FrontPageSpec,
    ServerSpec,
    SpecError,
    checked_grace,
    checked_number,
    checked_port,
    checked_username,
)

log = logging.getLogger(__name__)

Asked = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Locale:
    """LANG and TZ for the servers, from whoever started the supervisor."""

    language: str
    time_zone: str


class Course:
    """One course's seats and front page, and how requests act on them."""

    def __init__(
        self, loop: Loop, paths: CoursePaths, spawner: Spawner, groups: Groups, tickets: socket.socket, locale: Locale
    ) -> None:
        self._loop, self._paths, self._groups, self._tickets, self._locale = loop, paths, groups, tickets, locale
        self.seats = Seats(loop, spawner, groups, paths.logs)
        self.front = FrontPage(loop, groups, paths.logs, self._state_of)
        self._started_at = time.time()

    @property
    def registry_file(self) -> Path:
        return self._paths.run / registry.FILE

    def recover(self) -> None:
        """Adopt what a killed supervisor left."""
        for one in registry.load(self.registry_file):
            self.seats.adopt(one)

    def settle(self) -> bool:
        """End what was left and not adopted (the old front page, unknown servers); whether all of it is gone."""
        kept = {seat.group.path.name for seat in self.seats if seat.is_up} | {"supervisor"}
        left = [group for name in self._groups.names() if name not in kept for group in [self._groups.group(name)]]
        for group in left:
            if group.pids():
                group.kill()
            else:
                group.remove()
        return not any(seat.stopping for seat in self.seats) and not any(group.pids() for group in left)

    def remember(self) -> None:
        """Write servers.json when something changed."""
        if self.seats.is_changed:
            try:
                registry.save(self.registry_file, self.seats.remembered())
            except OSError as error:
                log.error("cannot write %s: %s", self.registry_file, error)
                return
            self.seats.is_changed = False

    def child_ended(self, pid: int, status: int) -> None:
        if not self.seats.child_ended(pid, status):
            self.front.child_ended(pid, status)

    def close(self) -> None:
        """Let go of everything; the class is over."""
        self.seats.close()
        self.front.close()
        self._groups.remove()

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "hello": self._hello,
            "bind": self._bind,
            "drop": self._drop,
            "servers": self._servers,
            "start_server": self._start_server,
            "mark_ready": self._mark_ready,
            "fail_server": self._fail_server,
            "stop_servers": self._stop_servers,
            "start_front_page": self._start_front_page,
            "stop_front_page": self._stop_front_page,
            "front_page": self._front_page,
            "end": self._end,
        }

    def _hello(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        kind = self._groups.kind.value
        answer({"version": __version__, "pid": os.getpid(), "started_at": self._started_at, "groups": kind})

    def _bind(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """Every port that can be held is; the others are told by name."""
        addresses = _words(asked.get("addresses", []))
        errors: dict[str, list[str]] = {}
        notes: list[str] = []
        for one in _list(asked.get("ports")):
            username, port = one.get("username"), checked_port(one.get("port"))
            try:
                if username is None:
                    notes += self.front.bind(port, addresses)
                else:
                    uid = checked_number(one.get("uid"), 1, 2**32 - 2)
                    notes += self.seats.bind(checked_username(username), uid, port, addresses)
            except HostError as error:
                errors[username or ""] = [error.problem, error.hint]
        answer({"errors": errors, "notes": list(dict.fromkeys(notes))})

    def _drop(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        for username in _words(asked.get("usernames")):
            self.seats.drop(username)
        answer({})

    def _servers(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        answer({"servers": [self.seats.report(seat).to_json() for seat in self.seats], "front": self.front.report()})

    def _start_server(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        spec = ServerSpec.from_json(asked.get("server"))
        seat = self._seat(spec.username)
        if (seat.uid, seat.port) != (spec.uid, spec.port) or not seat.sockets:
            raise HostError(f"port {spec.port} is not held for {spec.username}")
        if not seat.is_up:
            _check_memory_files(descriptors)
            self._make_runtime_folder(spec)
            self.seats.start(seat, self._order(spec, seat, descriptors))
        answer({"server": self.seats.report(seat).to_json()})

    def _order(self, spec: ServerSpec, seat: Seat, descriptors: Sequence[int]) -> Order:
        run = self._paths.run
        jupyter = {
            "JUPYTER_CONFIG_PATH": run / "etc/jupyter",
            "JUPYTER_PATH": run / "share/jupyter",
            "JUPYTER_RUNTIME_DIR": self._paths.students_run / str(spec.uid),
        }
        environment = server_environment(
            spec.account,
            language=self._locale.language,
            time_zone=self._locale.time_zone,
            jupyter=jupyter,
            wanted=spec.environment,
        )
        has_tls = len(descriptors) == 3
        return Order(
            account=spec.account,
            listening=tuple(one.fileno() for one in seat.sockets),
            config=descriptors[0],
            certificate=descriptors[1] if has_tls else None,
            key=descriptors[2] if has_tls else None,
            environment=environment,
            group=seat.group,
        )

    def _make_runtime_folder(self, spec: ServerSpec) -> None:
        parent = os.open(self._paths.students_run, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.close(open_private_folder(parent, str(spec.uid), spec.account))
        finally:
            os.close(parent)

    def _mark_ready(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        seat = self._seat(asked.get("username"))
        if seat.handle is not None and seat.handle.pid == asked.get("pid"):
            self.seats.mark_ready(seat)
        answer({"server": self.seats.report(seat).to_json()})

    def _fail_server(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """A server that does not answer in time is ended, and its state says why."""
        seat = self._seat(asked.get("username"))
        grace, reason = checked_grace(asked.get("grace")), str(asked.get("reason", ""))

        def done() -> None:
            answer({"server": self.seats.report(seat).to_json()})

        if seat.handle is None or seat.handle.pid != asked.get("pid"):
            done()
            return
        self.seats.stop(seat, grace, done, final_state=ServerState.FAILED, reason=reason)

    def _stop_servers(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """Answers when the last of them is gone."""
        grace = checked_grace(asked.get("grace"))
        names = asked.get("usernames")
        wanted = None if names is None else frozenset(_words(names))
        chosen = [seat for seat in self.seats if wanted is None or seat.username in wanted]

        def done() -> None:
            answer({"servers": [self.seats.report(seat).to_json() for seat in chosen]})

        self._stop_all(chosen, grace, done)

    def _stop_all(self, chosen: Sequence[Seat], grace: float, done: Callable[[], None]) -> None:
        waiting = len(chosen)
        if not waiting:
            done()
            return

        def one_done() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()

        for seat in chosen:
            self.seats.stop(seat, grace, one_done)

    def _start_front_page(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        spec = FrontPageSpec.from_json(asked.get("front"))
        _check_memory_files(descriptors)
        self.front.start(spec, self._tickets, descriptors)
        answer({"front": self.front.report()})

    def _stop_front_page(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        self.front.stop(lambda: answer({"front": self.front.report()}))

    def _front_page(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        answer({"front": self.front.report()})

    def _end(self, asked: Asked, descriptors: list[int], answer: Answer) -> None:
        """Stop every server and the front page, then the supervisor itself."""
        everybody = list(self.seats)

        def over() -> None:
            answer({"servers": [self.seats.report(seat).to_json() for seat in everybody]})
            log.info("the class is over")
            self._loop.stop()

        grace = checked_grace(asked.get("grace"))
        self.front.stop(lambda: self._stop_all(everybody, grace, over))

    def _seat(self, username: object) -> Seat:
        seat = self.seats.get(checked_username(username))
        if seat is None:
            raise HostError(f"the supervisor holds no port for {username}")
        return seat

    def _state_of(self, username: str) -> ServerState:
        seat = self.seats.get(username)
        return seat.state if seat is not None else ServerState.STOPPED


def _check_memory_files(descriptors: Sequence[int]) -> None:
    if len(descriptors) not in (1, 3) or not all(map(is_sealed, descriptors)):
        raise SpecError("a config, and with TLS a certificate and a key, are needed as sealed memory files")


def _words(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise SpecError("not a list of words")
    return given


def _list(given: object) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise SpecError("not a list of objects")
    return given
