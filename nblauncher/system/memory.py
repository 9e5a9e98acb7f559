"""Memory: how much the host has left, and for how many servers that is enough. Figures: docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RESERVE = 0.05
"""Of the host's memory, which a class never takes."""

_KERNEL_BYTES = {"forkserver": 40_000_000, "process": 90_000_000, "slurm": 90_000_000}
"""A kernel with pandas and a little data, by its server's spawner."""

_SERVER_BYTES = {"forkserver": 26_000_000, "process": 72_000_000, "slurm": 72_000_000}
"""An idle server, by spawner, with its part of the memory that servers share."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of memory in all, and bytes that programs could still get."""

    total: int
    available: int

    @property
    def usable(self) -> int:
        """Bytes that a class may take."""
        return max(0, self.available - int(RESERVE * self.total))

    def servers(self, spawner: str) -> int:
        """How many more idle servers fit."""
        return self.usable // server_bytes(spawner)

    def students(self, spawner: str) -> int:
        """How many more working students fit, with a server and a kernel each."""
        return self.usable // student_bytes(spawner)


def server_bytes(spawner: str) -> int:
    return _SERVER_BYTES[spawner]


def student_bytes(spawner: str) -> int:
    return server_bytes(spawner) + _KERNEL_BYTES[spawner]


def kills() -> int:
    """How many processes the OOM killer has ended since the host started, on the whole host or in a control group
    (/proc/vmstat oom_kill, Linux 4.13).
    """
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def words(size: int) -> str:
    """`21.3 GB`, `640 MB`, `1.5 MB`, `20 kB`."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    if size >= 1e6:
        return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
    return f"{size / 1e3:.0f} kB"


def room() -> Room:
    """The host's, now (proc_meminfo(5): MemTotal, MemAvailable)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return Room(int(lines["MemTotal"].split()[0]) * 1024, int(lines["MemAvailable"].split()[0]) * 1024)
