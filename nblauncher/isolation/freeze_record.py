"""What must be thawed again: the frozen students, and which of their processes were moved or stopped.

It is recorded before it is done, in a file of root's on a file system that a reboot empties, so that the next command
can thaw what a killed one froze. There is a file for each reason to freeze (a capture, the `freeze` command) and
course; a student named in several of them is thawed when the last one is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.model import Handle
from nblauncher.system import root_files

log = logging.getLogger(__name__)

BY_CAPTURE, BY_COMMAND = "frozen-by-capture.json", "frozen.json"
"""Names of the files in a course's runtime folder."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Held:
    """One student. Processes are pid and start time; `moved` has the control group that each came from."""

    username: str
    moved: dict[Handle, str] = field(default_factory=dict)
    stopped: set[Handle] = field(default_factory=set)

    def take_over(self, other: Held) -> None:
        self.moved = {**other.moved, **self.moved}
        self.stopped |= other.stopped


def load(file: Path) -> dict[int, Held]:
    """The record, by uid. Empty when there is none, or it was written before the host was restarted."""
    text = root_files.read(file)
    if text is None:
        return {}
    try:
        given = json.loads(text)
        if given["boot_id"] != _boot_id():
            return {}
        return {int(uid): _held(student) for uid, student in given["students"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is not used: %s", file, error)
        return {}


@contextlib.contextmanager
def changed(file: Path) -> Iterator[dict[int, Held]]:
    """The content of the file, to be changed in the block; written at its end. One process of the host at a time."""
    with alone(file.parent.parent / "frozen.lock"):
        held = load(file)
        try:
            yield held
        finally:
            _save(file, held)


def others(file: Path) -> list[Path]:
    """The files of other reasons and courses."""
    names = (BY_CAPTURE, BY_COMMAND)
    return [other for name in names for other in sorted(file.parent.parent.glob(f"*/{name}")) if other != file]


def hand_over(uid: int, held: Held, file: Path) -> bool:
    """Let another file that names the student undo it; False when none does. Call it inside `changed`."""
    for other in others(file):
        found = load(other)
        if uid in found:
            found[uid].take_over(held)
            _save(other, found)
            return True
    return False


def _save(file: Path, held: dict[int, Held]) -> None:
    if not held:
        file.unlink(missing_ok=True)
        return
    students = {
        uid: {
            "username": student.username,
            "moved": [[handle.pid, handle.start_time, where] for handle, where in student.moved.items()],
            "stopped": [[handle.pid, handle.start_time] for handle in student.stopped],
        }
        for uid, student in held.items()
    }
    root_files.replace(file, json.dumps({"boot_id": _boot_id(), "students": students}))


def _held(given: dict[str, list[list[int]]]) -> Held:
    moved = {Handle(int(pid), int(start)): str(where) for pid, start, where in given["moved"]}
    return Held(str(given["username"]), moved, {Handle(int(pid), int(start)) for pid, start in given["stopped"]})


@contextlib.contextmanager
def alone(file: Path) -> Iterator[int]:
    """One process at a time; a killed one releases the lock, unless a child of its own has the descriptor."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
