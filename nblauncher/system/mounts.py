"""What is mounted in this process's mount namespace. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """`options` are those of the mount point, `file_system_options` those of the whole file system."""

    device: int
    """As st_dev."""
    point: str
    options: tuple[str, ...]
    kind: str
    source: str
    file_system_options: tuple[str, ...]

    @property
    def is_writable(self) -> bool:
        return "rw" in self.options and "rw" in self.file_system_options


def mounts() -> list[Mount]:
    """In the order in which they were mounted."""
    return [_parsed(line) for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n") if line]


def _parsed(line: bytes) -> Mount:
    fields, _, rest = line.partition(b" - ")
    _id, _parent, device, _root, point, options, *_ = fields.split(b" ")
    kind, source, file_system_options = rest.split(b" ")[:3]
    major, _, minor = device.partition(b":")
    return Mount(
        os.makedev(int(major), int(minor)),
        _unescaped(point),
        _words(options),
        os.fsdecode(kind),
        _unescaped(source),
        _words(file_system_options),
    )


def _unescaped(field: bytes) -> str:
    """The kernel writes a space, tab, newline or backslash as three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def _words(options: bytes) -> tuple[str, ...]:
    return tuple(os.fsdecode(options).split(","))
