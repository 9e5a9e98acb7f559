"""logs: what the supervisor keeps of a student's server, the front page and itself. Reads root's own files only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.supervisor import client

_MOST = 4_000_000
"""Bytes that are read at once; a student's log is capped far below."""


def files(host: Host, username: str | None) -> list[Path]:
    """The log of a student's server, or those of the class: what commands and supervisor did, and the output of front
    page, nginx and fork servers. No student's name begins with `_`.
    """
    if username is not None:
        return [client.log_file(host.paths, username)]
    return [host.paths.logs / "nblauncher.log", *sorted(host.paths.logs.glob("_*.log"))]


def last_lines(file: Path, count: int) -> list[str]:
    """The last lines of a log, those of the older file `.1` included. Safe for a terminal, whoever wrote them."""
    newest = _lines(file)
    older = _lines(file.with_name(f"{file.name}.1")) if len(newest) < count else []
    return [*older, *newest][-count:] if count else []


@dataclass
class Follower:
    """Reads what is added to a log from now on, also when it is rotated or made anew."""

    file: Path
    _descriptor: int = -1
    _rest: bytes = field(default=b"")

    def __post_init__(self) -> None:
        self._open(at_end=True)

    def new_lines(self) -> Sequence[str]:
        """Whole lines that came since the last call."""
        lines = self._read()
        if self._is_replaced():
            lines += self._read()  # written between the last read and the rotation
            self.close()
            self._open(at_end=False)
            lines += self._read()
        return lines

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, *, at_end: bool) -> None:
        try:
            self._descriptor = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        if at_end:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def _is_replaced(self) -> bool:
        try:
            there = os.stat(self.file, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if self._descriptor < 0:
            return True
        ours = os.fstat(self._descriptor)
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _read(self) -> list[str]:
        if self._descriptor < 0:
            return []
        data = self._rest
        while part := os.read(self._descriptor, 65536):
            data += part
            if len(data) > _MOST:
                break
        *whole, self._rest = data.split(b"\n")
        return [_shown(line) for line in whole]


def _lines(file: Path) -> list[str]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, "rb") as stream:
        stream.seek(max(0, os.fstat(descriptor).st_size - _MOST))
        return [_shown(line) for line in stream.read(_MOST).split(b"\n") if line]


def _shown(line: bytes) -> str:
    return printable(line.decode("utf-8", errors="backslashreplace").rstrip("\r"))
