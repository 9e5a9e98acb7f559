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

from nblauncher import files, gathering, manifest, workers
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
    try:
        arguments = (account.home, scope, limits, told, is_still)
        for frame in frames_of(account, gathering.gather_to, *arguments, keep={told}, stall=stall, longest=longest):
            keeping.take(frame)
    finally:
        os.close(told)
        keeping.close()
    if not keeping.is_finished:
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
        self.is_finished = False

    def close(self) -> None:
        self._stack.close()

    def take(self, frame: workers.Frame) -> None:
        header, kind = frame.header, frame.header.get("kind")
        if (kind in ("data", "end", "void")) != self._is_open or self.is_finished:
            raise _broken(f"{kind!r} out of turn")
        if kind == "file":
            self._begin(header)
            self._write(frame.payload)
            self._end()
        elif kind == "begin":
            self._begin(header)
        elif kind == "data":
            self._write(frame.payload)
        elif kind == "end":
            self._end()
        elif kind == "void":
            self._drop()
        elif kind == "same":
            for path, stamp, sha256 in manifest.rows_in(header.get("files")):
                self._same({"path": path, "stamp": stamp, "sha256": sha256})
        elif kind == "excluded":
            path, reason = header.get("path"), header.get("reason")
            if not isinstance(path, str) or not isinstance(reason, str):
                raise _broken("an exclusion of nothing")
            self._exclude(path, reason, header.get("incomplete") is not False)
        elif kind == "finish":
            self.is_finished = True
        else:
            raise _broken(f"{kind!r}")

    def _begin(self, header: Mapping[str, Any]) -> None:
        self._path, self._stamp = self._checked(header)
        self._is_open = True
        if self._has_room(self._stamp[0]):
            self._draft = self._stack.enter_context(self._store.draft())
        else:
            self.kept.refused_bytes += self._stamp[0]
            self._exclude(f"{_WORK}{self._path}", "the budget of the history is used up", True)

    def _write(self, data: bytes) -> None:
        if self._draft is not None:
            if self._draft.size + len(data) > self._stamp[0]:
                raise _broken("more bytes than announced")
            self._draft.write(data)

    def _end(self) -> None:
        if self._draft is not None:
            if self._draft.size != self._stamp[0]:
                raise _broken("fewer bytes than announced")
            self._record(self._path, Stored(self._stamp, self._draft.keep()))
            self.kept.new_bytes += self._stamp[0]
        self._drop()

    def _drop(self) -> None:
        self._stack.close()
        self._draft, self._is_open = None, False

    def _same(self, header: Mapping[str, Any]) -> None:
        path, stamp = self._checked(header)
        known = self._known.get(path)
        if known is None or known.sha256 != header.get("sha256") or known.size != stamp[0]:
            raise _broken("a file that we do not have")
        self._record(path, Stored(stamp, known.sha256))

    def _record(self, path: str, stored: Stored) -> None:
        self.kept.files[path] = stored
        self._bytes += stored.size

    def _exclude(self, path: str, reason: str, incomplete: bool) -> None:
        if len(self.kept.exclusions) > 2 * self._most + 1000:
            raise _broken("more entries than max_files")
        short = path[:4000].removeprefix("work").removeprefix("/")
        self.kept.exclusions.append(Exclusion(short, reason[:200], incomplete))

    def _checked(self, header: Mapping[str, Any]) -> tuple[str, Stamp]:
        path, stamp = header.get("path"), manifest.stamp_in(header.get("stamp"))
        if not isinstance(path, str) or not path.startswith(_WORK) or stamp is None or stamp[0] < 0:
            raise _broken("a file without path, size and times")
        short = path.removeprefix(_WORK)
        if not files.parts_of(short, max_depth=self._limits.max_depth) or short in self.kept.files:
            raise _broken("a path twice, or none")
        if stamp[0] > self._limits.max_file or self._bytes + stamp[0] > self._limits.max_student:
            raise _broken("more bytes than max_file or max_student")
        if len(self.kept.files) > self._most:
            raise _broken("more entries than max_files")
        return short, stamp


def _broken(what: str) -> HostError:
    return HostError(f"the student's copy broke its rules: {what}")
