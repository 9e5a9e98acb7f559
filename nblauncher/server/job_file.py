"""What a server on a node is given: one private file in the student's home, read once and removed.

A child that is the student writes it on the class's host; root opens nothing below a home. Without Jupyter.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.printable import printable
from nblauncher.system import private_file

FOLDER = Path(".local/share/nblauncher/jobs")
"""Below the home; 0700."""

_LARGEST = 1 << 20
_LOGGED_OUT = ".logged-out"
_KEPT = 10
"""Logs, and lists of sign-ins that ended."""
_LOG_BYTES, _LOG_LINES, _LONGEST_LINE = 8192, 5, 300
"""Of a job's log, what `last_lines` looks at and returns."""

_NONE = "-"
_RUN = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class JobFile:
    """`config` is that of nblauncher.server.config, certificate and key are PEM."""

    config: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)
    appearance: Mapping[str, Any] = field(default_factory=dict)
    """As nblauncher.auth.appearance."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """notebook.environment and the time zone."""
    kernel: Mapping[str, Any] = field(default_factory=dict)
    """`spec` is a kernel.json with the class's profile, `python` the kernels' Python; without them it is the server's.
    """
    sign_ins: str = ""
    """Names the sign-ins that go on when the student's server is started again (hexadecimal)."""
    course: str = ""
    lost_node: str = ""
    """The node on which the last server ran, if it failed: that server may still run there."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def parse(cls, content: bytes) -> JobFile:
        return cls(**json.loads(content))


def folder_of(home: Path) -> Path:
    return home / FOLDER


def name_of(run: str) -> str:
    """The file for the job of this start."""
    return f"{run}.json"


def logged_out(home: Path, sign_ins: str) -> Path:
    """The file with those of these sign-ins that ended. In the home, because the next server may be on another node."""
    return folder_of(home) / f"{sign_ins}{_LOGGED_OUT}"


def put(home: Path, run: str, given: JobFile) -> Path:
    """Write the file, and remove the last one if no job has read it. Runs as the student. OSError."""
    folder = folder_of(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for kind in ("*.log", f"*{_LOGGED_OUT}"):
        for old in sorted(folder.glob(kind), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
    if _RUN.fullmatch(last := _current_run(folder, given.course)):
        drop(home, last)
    file = folder / name_of(run)
    private_file.replace(file, given.to_bytes())
    _name(folder, given.course, run)
    return file


def withdraw(home: Path, course: str) -> None:
    """No server of the class is wanted over this home. Runs as the student."""
    folder = folder_of(home)
    if folder.is_dir():
        _name(folder, course, _NONE)


def is_superseded(folder: Path, course: str, run: str) -> bool:
    """Whether the class has started another server over this home since this one, or wants none."""
    return _current_run(folder, course) not in ("", run)


def _name(folder: Path, course: str, run: str) -> None:
    """Say which start of the class's is the valid one, in a link that leads nowhere: it is replaced in one step."""
    link = _current(folder, course)
    new = link.with_name(f".{link.name}.{run}")
    new.unlink(missing_ok=True)
    new.symlink_to(run)
    new.replace(link)


def _current_run(folder: Path, course: str) -> str:
    """What the link names, which the student can change; empty if there is none."""
    try:
        return os.readlink(_current(folder, course))
    except OSError:
        return ""


def _current(folder: Path, course: str) -> Path:
    return folder / f"{course}.current"


def last_lines(home: str, job: int) -> list[str]:
    """The end of a job's log, whatever the student made of it. Runs as the student."""
    file = folder_of(Path(home)) / f"{job}.log"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb"):
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return []
        content = os.pread(descriptor, _LOG_BYTES, max(0, facts.st_size - _LOG_BYTES))
    lines = [printable(line.strip()) for line in content.decode("utf-8", "replace").splitlines()]
    return [line[:_LONGEST_LINE] for line in lines if line][-_LOG_LINES:]


def drop(home: Path, run: str) -> None:
    """No job may start with it any more. Runs as the student."""
    (folder_of(home) / name_of(run)).unlink(missing_ok=True)


def take(file: Path) -> JobFile:
    """Read it once and remove it: a job that was submitted twice starts one server. Runs as the student, on the node.

    HostError when it is gone, RefusedError when another account could have read or written it.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "Is the home the same on this node? A job that is started again needs a new `nblauncher launch`."
        raise HostError(f"{file} cannot be read: {error.strerror}", hint) from error
    with os.fdopen(descriptor, "rb") as stream:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise RefusedError(f"{file} is not this account's alone", "Run `nblauncher launch` again.")
        content = stream.read(_LARGEST)
    file.unlink()
    try:
        return JobFile.parse(content)
    except (ValueError, TypeError) as error:
        raise HostError(f"{file} is damaged", "Run `nblauncher launch` again.") from error
