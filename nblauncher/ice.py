"""What must be let go again: who is frozen, and which processes were moved or stopped for it.

It is written down before it is done, in a file of root's on a file system that a reboot empties, so that the next
command can let go of what a killed one froze. There is a file for each reason to freeze (a capture, the `freeze`
command) and course; a student whom several of them name goes on when the last one lets go.
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

from nblauncher import root_files
from nblauncher.model import Handle

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
    """By uid. Empty when there is none, or when it is of an earlier start of the host."""
    text = root_files.read(file)
    if text is None:
        return {}
    try:
        given = json.loads(text)
        if given["boot_id"] != _boot_id():
            return {}
        return {int(uid): _held(one) for uid, one in given["students"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is not used: %s", file, error)
        return {}


@contextlib.contextmanager
def changed(file: Path) -> Iterator[dict[int, Held]]:
    """What is in the file, to be changed; written when the block is left. One process of the host at a time."""
    with alone(file.parent.parent / "frozen.lock"):
        held = load(file)
        try:
            yield held
        finally:
            _save(file, held)


def others(file: Path) -> list[Path]:
    """The files of other reasons and courses."""
    names = (BY_CAPTURE, BY_COMMAND)
    return [one for name in names for one in sorted(file.parent.parent.glob(f"*/{name}")) if one != file]


def hand_over(uid: int, held: Held, file: Path) -> bool:
    """Let somebody else who froze the student undo it; False when nobody did. For inside of `changed`."""
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
            "username": one.username,
            "moved": [[handle.pid, handle.start_time, where] for handle, where in one.moved.items()],
            "stopped": [[handle.pid, handle.start_time] for handle in one.stopped],
        }
        for uid, one in held.items()
    }
    root_files.replace(file, json.dumps({"boot_id": _boot_id(), "students": students}))


def _held(given: dict[str, list[list[int]]]) -> Held:
    moved = {Handle(int(pid), int(start)): str(where) for pid, start, where in given["moved"]}
    return Held(str(given["username"]), moved, {Handle(int(pid), int(start)) for pid, start in given["stopped"]})


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time, also when one is killed."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
