"""Space on the disks, and memory, for a class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.system import memory
from nblauncher.system.memory import Room

_LEAST_BYTES = 100_000_000
_LEAST_INODES = 1000
_BYTES_PER_STUDENT = 50_000_000
_INODES_PER_STUDENT = 2000


def room(places: Mapping[str, Path], students: int) -> Iterator[Finding]:
    """Free bytes and inodes for homes, state and retrieved work. Name → folder, which may not exist yet."""
    for name, place in places.items():
        try:
            status = os.statvfs(_existing(place))
        except PermissionError:
            yield warning("disk space", f"{name} ({printable(str(place))}) cannot be checked", "Run it as root.")
            continue
        free = status.f_bavail * status.f_frsize
        # Btrfs and ZFS make inodes as they need them and report 0 of 0.
        inodes = status.f_favail if status.f_files else None
        where = f"{name} ({printable(str(place))})"
        if free < _LEAST_BYTES or (inodes is not None and inodes < _LEAST_INODES):
            yield problem("disk space", f"{where}: {_room(free, inodes)}: full", "Free some space first.")
        elif free < students * _BYTES_PER_STUDENT or (inodes is not None and inodes < students * _INODES_PER_STUDENT):
            yield warning(
                "disk space", f"{where}: {_room(free, inodes)}, little for {students} students", "Free some space."
            )
        else:
            yield ok("disk space", f"{where}: {_room(free, inodes)}")


def main_memory(room: Room, spawner: str, students: int, running: int, *, on_demand: bool) -> Finding:
    """Whether there is memory for all students at the same time, each with a server and a kernel that imported pandas.

    `running` students have their servers already, which `room` no longer includes.
    """
    able = room.students(spawner) + running
    left = f"{memory.words(room.usable)} are left for the class"
    enough = f"{left}: about {able} students can work at the same time"
    if able >= students:
        return ok("memory", enough)
    if on_demand:
        return warning("memory", f"{enough}, of {students}; more wait until one stops", "Set notebook.idle_stop.")
    if room.servers(spawner) + running >= students:
        return warning("memory", f"{enough}, of {students}", "Set `notebook.start: on-demand` and notebook.idle_stop.")
    return problem("memory", *does_not_fit(room, spawner, students - running))


def does_not_fit(room: Room, spawner: str, servers: int) -> tuple[str, str]:
    """The problem and the hint when there is no memory for so many more servers."""
    needed = memory.words(servers * memory.server_bytes(spawner))
    return (
        f"{servers} servers need {needed} of memory and {memory.words(room.usable)} are left for the class",
        "Let each start when its student comes: `nblauncher launch --on-demand`, or `notebook.start: on-demand`.",
    )


def _existing(place: Path) -> Path:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _room(free: int, inodes: int | None) -> str:
    return f"{memory.words(free)} free" + (f", {inodes} inodes" if inodes is not None else "")
