"""nbgrader, loaded once for a run: what surveys, judges and the teacher's children are forked from.

The survey comes before the course is locked, so this is started without a control group and enters one later.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver.bare_python import bare
from nblauncher.forkserver.requests import Place, answer
from nblauncher.grading import fork_servers, parcels, teacher_tool
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account
from nblauncher.system import wire
from nblauncher.system.descriptors import unix_listener

_NAME = "packages of grading.requirements"
_DOOR = "judges-"


class Graders:
    """A fork server of root's that has nbgrader loaded. `door` is its socket, which only root can reach."""

    def __init__(self, server: fork_servers.ForkServer, door: Path) -> None:
        self._server, self._door = server, door

    def fork(
        self,
        role: str,
        place: Place,
        order: Mapping[str, Any],
        descriptors: Sequence[int] = (),
        environment: Mapping[str, str] = fork_servers.ENVIRONMENT,
    ) -> socket.socket:
        """Fork a process of the grading environment; the connection lives as long as it does. HostError."""
        names = {"HOME": str(place.account.home), "USER": place.account.username, "LOGNAME": place.account.username}
        request = {"role": role, "place": place.to_json(), "order": dict(order)}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.connect(str(self._door))
            wire.send(connection, {**request, "environment": {**environment, **names}}, descriptors)
        except OSError as error:
            connection.close()
            raise HostError(f"the grading environment does not answer: {error.strerror}") from error
        return connection

    def survey(self, teacher: Account, python: Path, order: Mapping[str, Any], timeout: float) -> Any:
        """As teacher_tool.ask, in a child that is forked instead of started."""
        place = Place(teacher, Sandbox(Group(Kind.NONE, Path()), score=limits.OURS))
        environment = teacher_tool.environment_of(teacher, python)
        with self.fork("survey", place, order, (), environment) as connection:
            try:
                parcel = parcels.take_one(connection.fileno(), most=teacher_tool.MOST_ANSWERED, stall=timeout)
            except TimeoutError as error:
                raise HostError(f"nbgrader was not done with the survey after {timeout:.0f} s") from error
        said = parcel.json() if parcel else {}
        return teacher_tool.result_of("survey", said, str(said.get("traceback", "")), teacher)

    def prepare(self, group: Group) -> None:
        """Before submissions are graded: its processes are in this group, and know a submission from a rehearsal."""
        self._server.enter(group)
        answer(self._server.link, {"rehearse": True})
        self._server.wait_until_ready(_NAME)

    def end(self) -> None:
        self._server.end()
        self._door.unlink(missing_ok=True)


@contextlib.contextmanager
def started(python: Path, folder: Path, log_file: Path) -> Iterator[Graders]:
    """`python` is that of the grading environment, `folder` root's (0711). Another run's may be open beside it."""
    for place, mode in ((folder, 0o711), (folder / "home", 0o700)):
        place.mkdir(mode=mode, parents=True, exist_ok=True)
        place.chmod(mode)
    _tidy(folder)
    door = folder / f"{_DOOR}{os.getpid()}.sock"
    start = bare(str(python), folder / "bare-grading")
    command = ("nblauncher.grading.fork_server", "" if start == str(python) else str(python))
    listening = unix_listener(door, 0o600)
    made = Graders(fork_servers.start(start, command, listening, folder / "home", log_file), door)
    try:
        made._server.wait_until_ready(_NAME)
        yield made
    finally:
        made.end()


def _tidy(folder: Path) -> None:
    """Sockets that killed commands left: nobody listens."""
    for left in folder.glob(f"{_DOOR}*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            try:
                trial.connect(str(left))
            except ConnectionRefusedError:
                left.unlink()
