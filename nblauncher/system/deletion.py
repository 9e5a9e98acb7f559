"""Deleting below a folder by descriptors: any depth, any number of entries, one file system, no symlink followed."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nblauncher.system.files import OTHER_DEVICE, Level, Trail, join, names_of, words_of

_AT_A_TIME = 10_000
_REPORTED = 200
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Deleted:
    """Deleted paths, without those below them, and paths that are left, each with the reason."""

    gone: tuple[str, ...]
    left: tuple[str, ...]


def delete_below(
    root: int, may_delete: Callable[[os.stat_result], bool] = lambda _status: True, *, patience: float = math.inf
) -> Deleted:
    """Delete everything below the open folder for which `may_delete` holds, not the folder itself.

    Any depth, any number of entries, one file system. A folder that it may delete and that lacks u+rwx gets it first.
    Other folders stay, but are searched where possible. After `patience` seconds the rest is left and listed in `left`.
    Both lists end after 200 paths with a count.
    """
    deletion = _Deletion(Trail(root), may_delete)
    until = time.monotonic() + patience
    try:
        while deletion.trail.levels:
            if time.monotonic() > until:
                deletion.left.add(
                    deletion.trail.levels[-1].path or ".", f": not searched to its end in {patience:.0f} s"
                )
                break
            deletion.step()
    finally:
        deletion.trail.close()
    return Deleted(deletion.gone.paths(), deletion.left.paths())


class _Paths:
    """The first of any number of paths, short enough for a worker's answer."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, path: str, ending: str = "") -> None:
        self._count += 1
        if self._count <= _REPORTED:
            self._first.append((path if len(path) <= _LONGEST else f"{path[:_LONGEST]}...") + ending)

    def paths(self) -> tuple[str, ...]:
        more = self._count - len(self._first)
        return (*self._first, f"... and {more} more") if more else tuple(self._first)


@dataclass
class _Deletion:
    trail: Trail
    may_delete: Callable[[os.stat_result], bool]
    gone: _Paths = field(default_factory=_Paths)
    left: _Paths = field(default_factory=_Paths)

    def step(self) -> None:
        """Delete or enter one entry of the last level, or leave the level when nothing is left to try."""
        level = self.trail.levels[-1]
        if not level.names:
            level.names = names_of(level.descriptor, _AT_A_TIME, level.stuck)
        if not level.names:
            self._leave(level)
            return
        name = level.names.pop()
        try:
            status = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False)
            is_deletable = self.may_delete(status)
            if stat.S_ISDIR(status.st_mode):
                self._enter(level, name, status, is_deletable)
            elif is_deletable:
                os.unlink(name, dir_fd=level.descriptor)
                self._report_gone(level, name)
            else:
                level.stuck.add(name)
        except FileNotFoundError:
            level.stuck.add(name)
        except OSError as error:
            self._keep(level, name, words_of(error))

    def _enter(self, level: Level, name: str, status: os.stat_result, is_deletable: bool) -> None:
        if status.st_dev != self.trail.device:
            if is_deletable:
                self._keep(level, name, OTHER_DEVICE)
            level.stuck.add(name)
            return
        if is_deletable and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            _open_up(name, level.descriptor, status)
        try:
            self.trail.enter(name, status).is_deletable = is_deletable
        except OSError:
            level.stuck.add(name)
            if is_deletable:
                raise

    def _leave(self, level: Level) -> None:
        lost = self.trail.leave()
        if lost is not None:
            self.left.add(lost.path, ": was moved meanwhile")
            if self.trail.levels:
                self.trail.levels[-1].stuck.add(lost.name)
            return
        if not self.trail.levels:
            return
        above = self.trail.levels[-1]
        above.has_left |= level.has_left
        above.stuck.add(level.name)
        if not level.is_deletable:
            return
        try:
            os.rmdir(level.name, dir_fd=above.descriptor)
            self._report_gone(above, level.name)
        except OSError as error:
            if not level.has_left:
                self._keep(above, level.name, words_of(error))

    def _report_gone(self, level: Level, name: str) -> None:
        if not level.is_deletable:
            self.gone.add(join(level.path, name))

    def _keep(self, level: Level, name: str, reason: str) -> None:
        level.stuck.add(name)
        level.has_left = True
        self.left.add(join(level.path, name), f": {reason}")


def _open_up(name: str, folder: int, status: os.stat_result) -> None:
    """chmod u+rwx a folder of the caller's. Through O_PATH and /proc, because fchmodat(2) follows symlinks."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino) and found.st_uid == os.geteuid():
            os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
    finally:
        os.close(descriptor)
