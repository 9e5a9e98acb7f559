"""Root's side of a snapshot: what the student's child streams is kept by content in root's store.

The student's child is that of a retrieval. Nothing that it sends is believed: paths, sizes and counts are checked, and
names of contents are computed here. Bytes only: nothing here interprets them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from nblauncher.config.settings import RetrieveSettings
from nblauncher.errors import HostError
from nblauncher.exchange.objects import ObjectDraft, ObjectStore
from nblauncher.exchange.retrieve import intake, manifest, student_side
from nblauncher.exchange.retrieve.scope import Scope
from nblauncher.exchange.rows import stored_row
from nblauncher.exchange.students import student
from nblauncher.model import Account, Exclusion, Stamp, Stored
from nblauncher.system import files, workers
from nblauncher.system.storage_share import Share
from nblauncher.system.streams import frames_of

_LISTED_AT_A_TIME = 100
_WORK = "work/"


@dataclass
class Kept:
    """What one student's folder held: contents by path below it, and what could not be kept."""

    files: dict[str, Stored] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)
    new_bytes: int = 0
    refused_bytes: int = 0
    """Of files for which there was no room."""
    given_up: set[str] = field(default_factory=set)
    """Paths that lose their known content for lack of room."""

    def covers(self) -> Callable[[str], bool]:
        """Whether a path that is not in `files` need not be remembered: it was given up, or it is certainly gone
        because neither it nor a folder above it was left out.
        """
        left_out = {exclusion.path for exclusion in self.exclusions}

        def is_certainly_gone(path: str) -> bool:
            parts = path.split("/")
            is_left_out = any("/".join(parts[:depth]) in left_out for depth in range(len(parts) + 1))
            return path in self.given_up or not is_left_out

        return is_certainly_gone


def keep(
    account: Account,
    scope: Scope,
    limits: RetrieveSettings,
    store: ObjectStore,
    known: Mapping[str, Stored],
    *,
    share: Share | None = None,
    is_still: bool = False,
    is_synced: bool = True,
    stall: float = 60.0,
    longest: float = 1800.0,
) -> Kept:
    """Keep the content of every file in the scope; files that are unchanged since `known` are not read.

    `share`: how much all of it may take, None for no limit. `is_still`: all the student's processes are frozen.
    Everything is on disk when this returns, if `is_synced`. RefusedError for uid 0; HostError when the student's child
    was ended, broke its rules or the disk is full: what was kept by then belongs to no snapshot.
    """
    student(account)
    keeping = _Keeping(scope, limits, store, known, share)
    listed = _listed(known)
    is_finished = False
    try:
        arguments = (account.home, scope, limits, listed, is_still)
        frames = frames_of(account, student_side.gather_to, *arguments, keep={listed}, stall=stall, longest=longest)
        with contextlib.closing(frames):  # ends the child when it breaks the rules
            for frame in frames:
                is_finished = not intake.take(frame, keeping)
    finally:
        os.close(listed)
        keeping.close()
    if not is_finished:
        raise HostError(f"the file worker of {account.username} ended before it was done")
    keeping.finish()
    if keeping.kept.new_bytes and is_synced:
        store.sync()
    return keeping.kept


def _listed(known: Mapping[str, Stored]) -> int:
    """A memory file that lists what the student's child need not send again."""
    descriptor = os.memfd_create("known", os.MFD_CLOEXEC)
    rows = [stored_row(f"{_WORK}{path}", stored.stamp, stored.sha256) for path, stored in known.items()]
    for start in range(0, len(rows), _LISTED_AT_A_TIME):
        workers.write_frame(descriptor, {"stored": rows[start : start + _LISTED_AT_A_TIME]})
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Keeping:
    def __init__(
        self,
        scope: Scope,
        limits: RetrieveSettings,
        store: ObjectStore,
        known: Mapping[str, Stored],
        share: Share | None,
    ) -> None:
        self._limits, self._store, self._known, self._share = limits, store, known, share
        self._paths: dict[str, list[str]] = {}
        """The paths of each content that has a place in the share."""
        self._new: set[str] = set()
        """Contents that the store did not have before."""
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
        if self._share is None or self._share.could_take(self._stamp[0]):
            self._draft = self._stack.enter_context(self._store.draft())
        else:
            self._refuse(self._path, self._stamp[0])

    def write(self, data: bytes) -> None:
        if self._draft is not None:
            if self._draft.size + len(data) > self._stamp[0]:
                raise intake.broken("more bytes than announced")
            self._draft.write(data)

    def end(self) -> None:
        if self._draft is not None:
            if self._draft.size != self._stamp[0]:
                raise intake.broken("fewer bytes than announced")
            self._keep(self._path, self._draft)
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

    def finish(self) -> None:
        """Remember as it was what could not be looked at, as far as there is room for it."""
        if self._share is None:
            return
        is_gone = self.kept.covers()
        unseen = [(stored.size, path) for path, stored in self._known.items() if path not in self.kept.files]
        for _size, path in sorted(unseen):
            if not is_gone(path) and not self._has_place(path, self._known[path]):
                self.kept.given_up.add(path)

    def _keep(self, path: str, draft: ObjectDraft) -> None:
        is_known = self._store.has(draft.sha256)
        stored = Stored(self._stamp, draft.sha256)
        if self._record(path, stored):
            draft.keep()
            self.kept.new_bytes += stored.size
            if not is_known:
                self._new.add(stored.sha256)

    def _record(self, path: str, stored: Stored) -> bool:
        """Whether there was room for it."""
        self._bytes += stored.size
        if not self._has_place(path, stored):
            self._refuse(path, stored.size)
            return False
        self.kept.files[path] = stored
        return True

    def _has_place(self, path: str, stored: Stored) -> bool:
        if self._share is None:
            return True
        gone = self._share.take(os.fsencode(path), stored.sha256, stored.size)
        if gone is None:
            return False
        for sha256 in gone:
            self._give_up(sha256, self._paths.pop(sha256))
        self._paths.setdefault(stored.sha256, []).append(path)
        return True

    def _give_up(self, sha256: str, paths: Iterable[str]) -> None:
        """Drop this content to make room for a smaller one."""
        for path in paths:
            stored = self.kept.files.pop(path, None)
            self.kept.given_up.add(path)
            if stored is not None:
                self._refuse(path, stored.size)
        if sha256 in self._new:
            self._new.discard(sha256)
            self._store.forget([sha256])

    def _refuse(self, path: str, size: int) -> None:
        if self._share is not None:
            self.kept.refused_bytes += size
            self.exclude(f"{_WORK}{path}", self._share.words, True)

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
