"""What a server on a node is given: one private file in the student's home, read once and removed.

A child that is the student writes it on the class's host; root opens nothing below a home. Without Jupyter.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.system import private_file

FOLDER = Path(".local/share/nblauncher/jobs")
"""Below the home; 0700."""

_LARGEST = 1 << 20
_LOGGED_OUT = ".logged-out"
_KEPT = 10
"""Logs, and lists of sign-ins that ended."""


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
    """Write the file. Runs as the student. OSError."""
    folder = folder_of(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for kind in ("*.log", f"*{_LOGGED_OUT}"):
        for old in sorted(folder.glob(kind), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
    file = folder / name_of(run)
    private_file.replace(file, given.to_bytes())
    return file


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
