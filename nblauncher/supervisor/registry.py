"""servers.json: what a supervisor needs to adopt the class of one that was killed. 0600 root, on tmpfs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nblauncher.model import Handle, JobHandle, ServerHandle
from nblauncher.paths import CoursePaths
from nblauncher.system import root_files
from nblauncher.system.descriptors import Listener

log = logging.getLogger(__name__)

FILE = "servers.json"
"""Its name in the course's runtime folder."""
JOBS = "jobs.json"
"""The same for the seats with jobs, in the course's state folder: jobs run on while this host is off."""

_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A student's seat, as the last supervisor left it."""

    username: str
    uid: int
    port: int
    listeners: tuple[Listener, ...]
    state: str
    reason: str
    handle: ServerHandle | None
    pipe_inode: int
    started_at: float
    news_inode: int = 0
    relay: Handle | None = None
    """Of a job: the process that holds the student's sockets."""
    is_ending: bool = False
    """Of a job: it was cancelled, and its end was not confirmed yet."""
    site: tuple[str, str] = ("", "")
    """Of a job: slurm.config and slurm.programs, with which the cluster is asked about it."""
    sign_ins: str = ""
    """Of a job: as Seat.sign_ins."""


class Registry:
    """Keeps the file up to date. Only the seats that changed are serialised again."""

    def __init__(self, file: Path, *, outlives_boot: bool = False) -> None:
        self.file = file
        boot_id = "" if outlives_boot else _boot_id()
        self._head = json.dumps({"version": _VERSION, "boot_id": boot_id}).removesuffix("}")
        self._students: dict[str, str] = {}

    def save(self, changed: Mapping[str, Remembered | None]) -> None:
        """Replace the file atomically; None removes a student. OSError when it cannot be written.

        Not fsynced: after a power loss the content would be void anyway.
        """
        for username, student in changed.items():
            if student is None:
                self._students.pop(username, None)
            else:
                self._students[username] = json.dumps(asdict(student))
        root_files.replace(self.file, f'{self._head}, "students": [{", ".join(self._students.values())}]}}')

    def differs(self, changed: Mapping[str, Remembered | None]) -> bool:
        """Whether `save` would change anything."""
        return any(
            (None if student is None else json.dumps(asdict(student))) != self._students.get(username)
            for username, student in changed.items()
        )


def load(file: Path) -> tuple[Remembered, ...]:
    """What was saved since the host was booted, or what outlives that; empty when there is none or it cannot be
    trusted.
    """
    text = root_files.read(file)
    if text is None:
        return ()
    try:
        content = json.loads(text)
        if content["version"] != _VERSION or content["boot_id"] not in ("", _boot_id()):
            return ()
        return tuple(map(_student, content["students"]))
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged and is not used: %s", file, error)
        return ()


def left(paths: CoursePaths) -> tuple[Remembered, ...]:
    """What the last supervisor of the course saved, unless it ended with its class."""
    return (*load(paths.run / FILE), *load(paths.state / JOBS))


def _student(given: dict[str, Any]) -> Remembered:
    handle = given["handle"]
    return Remembered(
        username=str(given["username"]),
        uid=int(given["uid"]),
        port=int(given["port"]),
        listeners=tuple(Listener(**listener) for listener in given["listeners"]),
        state=str(given["state"]),
        reason=str(given["reason"]),
        handle=None if handle is None else JobHandle(**handle) if "job" in handle else Handle(**handle),
        pipe_inode=int(given["pipe_inode"]),
        started_at=float(given["started_at"]),
        news_inode=int(given.get("news_inode", 0)),
        relay=Handle(**given["relay"]) if given.get("relay") else None,
        is_ending=given.get("is_ending") is True,
        site=(str(given.get("site", ["", ""])[0]), str(given.get("site", ["", ""])[1])),
        sign_ins=str(given.get("sign_ins", "")),
    )


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
