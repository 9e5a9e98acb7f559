"""The kernels' fork server, as the supervisor runs it: which students may have kernels, and what is loaded for them.

The students' servers ask it themselves (server.provisioner). Without it every kernel is an ordinary one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver import foreign, requests
from nblauncher.forkserver.bare_python import bare
from nblauncher.forkserver.requests import Place
from nblauncher.isolation.cgroups import Group
from nblauncher.supervisor.spawners.fork_server import ForkServer, Program
from nblauncher.supervisor.spawners.protocol import EventLoop, Timer
from nblauncher.system.descriptors import unix_listener

log = logging.getLogger(__name__)

_SCRIPT = Path(foreign.__file__)
_PATH = "/usr/bin:/bin"
"""What a module that looks for programs finds (matplotlib runs fc-list): folders that only root can write to."""

FOUND = "preloaded.json"
_BARE = "bare-python"
"""Not below the home: paths below it are replaced by the student's when a kernel is forked."""

_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Preload:
    """The Python that runs the class's kernels, and the modules that the teacher wants in them."""

    python: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forking:
    """Whether kernels are forked: `off` (each is a program of its own), `later` (with the first server), `loading`,
    `ready`, or `failed`, for this reason.
    """

    state: str
    reason: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Modules that the teacher wants in memory and that are not loaded, and why."""

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, "reason": self.reason, "left_out": dict(self.left_out)}

    @property
    def words(self) -> str:
        """What the teacher should know about it, if anything."""
        if self.state == "failed":
            return f"every kernel is started as a program of its own: {self.reason}"
        reasons = "; ".join(f"{name} {why}" for name, why in self.left_out.items())
        return f"kernels are forked without {', '.join(self.left_out)} in memory: {reasons}" if reasons else ""


class KernelForkServer:
    """`door` is the socket where students' servers ask. `home` is a folder that only root can write to, for the caches
    of libraries; in it a fork server notes for the next one what a kernel loads.
    """

    def __init__(
        self, loop: EventLoop, group: Group, language: str, door: Path, home: Path, keep_output: Callable[[int], None]
    ) -> None:
        self._loop, self._language, self._door, self._home = loop, language, door, home
        self._preload = Preload("", ())
        self._places: dict[int, Place] = {}
        self._forgetting: set[int] = set()
        self._unsent: list[bytes] = []
        self._timer: Timer | None = None
        self._is_due = False
        """It starts with the first server."""
        self._is_wanted = False
        self._left_out: dict[str, str] = {}
        self._fork_server = ForkServer(loop, group, "the kernels' fork server", self._program, self, keep_output)

    def prepare(self, preload: Preload | None, *, at_first_use: bool = False) -> None:
        """Start a fresh fork server, or have none. Running kernels are not affected."""
        self._fork_server.end()
        self._is_due = preload is not None and at_first_use
        self._is_wanted = preload is not None
        if preload is not None:
            self._preload = preload
            if not at_first_use:
                self._fork_server.begin()

    @property
    def state(self) -> Forking:
        """How kernels are started now."""
        if not self._is_wanted or self._is_due:
            return Forking("later" if self._is_due else "off")
        if self._fork_server.is_ready:
            return Forking("ready", left_out=dict(self._left_out))
        return Forking("loading") if self._fork_server.is_there else Forking("failed", self._fork_server.reason)

    def know(self, place: Place) -> None:
        """The student's server is about to start: it may ask for kernels, which start in this group."""
        self._places[place.account.uid] = place
        if self._is_due:
            self._is_due = False
            self._fork_server.begin()
        elif self._fork_server.is_ready:
            self._queue(requests.know(place))

    def forget(self, uid: int) -> None:
        """Fork no more kernels for this uid. It holds once `has_forgotten` is true."""
        if self._places.pop(uid, None) is not None and self._fork_server.is_ready:
            self._forgetting.add(uid)
            self._queue(requests.forget(uid))

    def has_forgotten(self, uid: int) -> bool:
        """Whether every kernel that was forked for this uid is in its group, and no other will follow."""
        return uid not in self._forgetting

    def child_ended(self, pid: int) -> bool:
        """A child of ours ended. Returns whether it was the fork server."""
        return self._fork_server.child_ended(pid)

    def close(self) -> None:
        self._fork_server.close()

    def ready(self, message: Mapping[str, Any]) -> None:
        for name in message.get("missing", ()):
            log.warning("notebook.preload: %s cannot be imported", name)
        self._left_out = {str(name): str(why) for name, why in message.get("left_out", {}).items()}
        for name, why in self._left_out.items():
            log.warning("notebook.preload: kernels are forked without %s: %s", name, why)
        for place in self._places.values():
            self._queue(requests.know(place))

    def answered(self, message: Mapping[str, Any]) -> None:
        self._forgetting.discard(message.get("forgotten", 0))
        if "forked" in message:
            self._fork_server.forked()

    def ended(self, why: str) -> None:
        """From now on servers cannot reach it, and start ordinary kernels."""
        self._unsent.clear()
        self._forgetting.clear()

    def _queue(self, packet: bytes) -> None:
        self._unsent.append(packet)
        self._send()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            while self._unsent:
                self._fork_server.ask(self._unsent[0], [])
                del self._unsent[0]
        except BlockingIOError:
            self._timer = self._loop.later(_PAUSE, self._send)
        except OSError as error:
            self._fork_server.give_up(f"it cannot be reached: {error}")

    def _program(self) -> Program:
        threadpoolctl = importlib.util.find_spec("threadpoolctl")
        if threadpoolctl is None or threadpoolctl.origin is None:
            raise HostError("the package threadpoolctl is missing")
        with contextlib.suppress(FileExistsError):
            self._home.mkdir(mode=0o700)
        python = bare(self._preload.python, self._home.with_name(_BARE))
        door = unix_listener(self._door, 0o666)
        argv = (
            *(python, str(_SCRIPT), "nblauncher.forkserver.kernels"),
            *("" if python == self._preload.python else self._preload.python, str(self._home / FOUND)),
            *(threadpoolctl.origin, ",".join(self._preload.modules), str(door.fileno())),
        )
        return Program(argv, {"LANG": self._language, "HOME": str(self._home), "PATH": _PATH}, (door,))
