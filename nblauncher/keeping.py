"""Root's side of a snapshot: what the student's child streams is kept by content in a store of root's.

The student's child is that of a retrieval (gathering). Nothing that it says is believed: paths, sizes and counts are
checked, names of contents are made here. Bytes only: nothing here looks at what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from nblauncher import files, gathering, intake, manifest, workers
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account, Exclusion
from nblauncher.objects import ObjectDraft, ObjectStore
from nblauncher.scope import Scope, Stamp, Stored
from nblauncher.settings import RetrieveSettings
from nblauncher.streams import frames_of

_TOLD_AT_A_TIME = 100
_WORK = "work/"


@dataclass
class Kept:
    """What one student's folder held: contents by path below it, and what could not be kept."""

    files: dict[str, Stored] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)
    new_bytes: int = 0
    refused_bytes: int = 0
    """Of contents for which there was no room."""

    def covers(self) -> Callable[[str], bool]:
        """Whether a path that is not in `files` is certainly not there: neither it nor what is above was left out."""
        left_out = {one.path for one in self.exclusions}

        def is_certainly_gone(path: str) -> bool:
            parts = path.split("/")
            return not any("/".join(parts[:depth]) in left_out for depth in range(len(parts) + 1))

        return is_certainly_gone


def keep(
    account: Account,
    scope: Scope,
    limits: RetrieveSettings,
    store: ObjectStore,
    known: Mapping[str, Stored],
    *,
    has_room: Callable[[int], bool] = lambda _size: True,
    is_still: bool = False,
    is_synced: bool = True,
    stall: float = 60.0,
    longest: float = 1800.0,
) -> Kept:
    """Keep the content of every file in the scope; files that `known` describes and nobody touched are not read.

    `has_room` is asked before a content of that many bytes is taken. `is_still` says that every process of the
    student's is frozen. Everything is on disk when this returns, if `is_synced`. RefusedError for uid 0; HostError when
    the student's child was ended, broke its rules or the disk is full: what was kept by then is nobody's.
    """
    if account.uid == 0:
        raise RefusedError(f"{account.username} has uid 0; a student's home is never handled by root")
    keeping = _Keeping(scope, limits, store, known, has_room)
    told = _told(known)
    is_finished = False
    try:
        arguments = (account.home, scope, limits, told, is_still)
        for frame in frames_of(account, gathering.gather_to, *arguments, keep={told}, stall=stall, longest=longest):
            is_finished = not intake.take(frame, keeping)
    finally:
        os.close(told)
        keeping.close()
    if not is_finished:
        raise HostError(f"the file worker of {account.username} ended before it was done")
    if keeping.kept.new_bytes and is_synced:
        store.sync()
    return keeping.kept


def _told(known: Mapping[str, Stored]) -> int:
    """A memory file with what the student's child need not send again."""
    descriptor = os.memfd_create("known", os.MFD_CLOEXEC)
    rows = [[f"{_WORK}{path}", one.stamp, one.sha256] for path, one in known.items()]
    for start in range(0, len(rows), _TOLD_AT_A_TIME):
        workers.write_frame(descriptor, {"stored": rows[start : start + _TOLD_AT_A_TIME]})
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Keeping:
    def __init__(
        self,
        scope: Scope,
        limits: RetrieveSettings,
        store: ObjectStore,
        known: Mapping[str, Stored],
        has_room: Callable[[int], bool],
    ) -> None:
        self._limits, self._store, self._known, self._has_room = limits, store, known, has_room
        self._most = limits.max_files + len(scope.handed_out)
        self._bytes = 0
        self._path, self._stamp = "", (0, 0, 0, 0)
        self._draft: ObjectDraft | None = None
        self._is_open = False
        self._stack = ExitStack()
        self.kept = Kept()

    def close(self) -> None:
        self._stack.close()

    @property
    def is_within(self) -> bool:
        return self._is_open

    def begin(self, header: Mapping[str, Any]) -> None:
        self._path, self._stamp = self._checked(header)
        self._is_open = True
        if self._has_room(self._stamp[0]):
            self._draft = self._stack.enter_context(self._store.draft())
        else:
            self.kept.refused_bytes += self._stamp[0]
            self.exclude(f"{_WORK}{self._path}", "the budget of the history is used up", True)

    def write(self, data: bytes) -> None:
        if self._draft is not None:
            if self._draft.size + len(data) > self._stamp[0]:
                raise intake.broken("more bytes than announced")
            self._draft.write(data)

    def end(self) -> None:
        if self._draft is not None:
            if self._draft.size != self._stamp[0]:
                raise intake.broken("fewer bytes than announced")
            self._record(self._path, Stored(self._stamp, self._draft.keep()))
            self.kept.new_bytes += self._stamp[0]
        self.drop()

    def drop(self) -> None:
        self._stack.close()
        self._draft, self._is_open = None, False

    def same(self, header: Mapping[str, Any]) -> None:
        path, stamp = self._checked(header)
        known = self._known.get(path)
        if known is None or known.sha256 != header.get("sha256") or known.size != stamp[0]:
            raise intake.broken("a file that we do not have")
        self._record(path, Stored(stamp, known.sha256))

    def _record(self, path: str, stored: Stored) -> None:
        self.kept.files[path] = stored
        self._bytes += stored.size

    def exclude(self, path: str, reason: str, incomplete: bool) -> None:
        if len(self.kept.exclusions) > 2 * self._most + 1000:
            raise intake.broken("more entries than max_files")
        short = path[:4000].removeprefix("work").removeprefix("/")
        self.kept.exclusions.append(Exclusion(short, reason[:200], incomplete))

    def _checked(self, header: Mapping[str, Any]) -> tuple[str, Stamp]:
        path, stamp = header.get("path"), manifest.stamp_in(header.get("stamp"))
        if not isinstance(path, str) or not path.startswith(_WORK) or stamp is None or stamp[0] < 0:
            raise intake.broken("a file without path, size and times")
        short = path.removeprefix(_WORK)
        if not files.parts_of(short, max_depth=self._limits.max_depth) or short in self.kept.files:
            raise intake.broken("a path twice, or none")
        if stamp[0] > self._limits.max_file or self._bytes + stamp[0] > self._limits.max_student:
            raise intake.broken("more bytes than max_file or max_student")
        if len(self.kept.files) > self._most:
            raise intake.broken("more entries than max_files")
        return short, stamp
