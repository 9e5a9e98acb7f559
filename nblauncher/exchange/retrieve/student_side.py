"""The student's side of a retrieval: a child that is the student reads the home and streams it to the teacher's child.

What travels, one frame each (workers.Frame): `file` with all its bytes, or `begin`, `data`... and `end` (or `void`,
when the file changed meanwhile); `same`, files that the store already has; `excluded`; `tick`, a sign of life while
nothing is sent; and `finish`. Paths are as in the store: below `work/` or `home/`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.config.settings import RetrieveSettings
from nblauncher.errors import HostError
from nblauncher.exchange import rows
from nblauncher.exchange.names import special_file
from nblauncher.exchange.retrieve import moved_folder
from nblauncher.exchange.retrieve.scope import CHANGED, HOME, Scope
from nblauncher.model import HandedOut, Stamp, Stored, stamp_of
from nblauncher.system import files, leases, workers

IN_MOTION = "in motion: it changed although everything of the student's was frozen"

HALF_SAVED = "open for writing at that moment: it is there as it was then, and may be half of a save"

_ATTEMPTS = 4
_CLOCK_TICK_NS = 20_000_000
"""A second write within a tick of the clock can leave the same times."""
_LONG_WRITE_NS = 500_000_000
"""While the file is open for writing, a write(2) may go on this long after it set the times."""
_TICK_SECONDS = 1.0
_SAME_AT_A_TIME = 100


def gather(
    output: int,
    known: int,
    home: Path,
    scope: Scope,
    limits: RetrieveSettings,
    stall: float,
    *,
    is_still: bool = False,
) -> str:
    """Stream one home to `output`. Runs as the student; answers with the same digest as `listing`.

    On `known` the teacher's child first lists the files that the store still has. HostError when the home cannot be
    read at all; BrokenPipeError when the reader is gone.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when another process waits for our lease
    stored = _read_known(known, stall)
    root = _open_home(home, scope)
    gathering = _Gathering(scope, limits, output, root, stored, is_still)
    base = root if scope.kind == HOME else gathering.open_material(root)
    digest = hashlib.sha256()
    if base is not None:
        for entry in _walk(base, scope, limits):
            digest.update(_line(entry, scope))
            gathering.take(entry)
    gathering.judge_links()
    gathering.send({"kind": "finish"})
    return digest.hexdigest()


def gather_to(output: int, home: Path, scope: Scope, limits: RetrieveSettings, known: int, is_still: bool) -> None:
    """`gather` for streams.frames_of; `known` is a file. `is_still`: all the student's processes are frozen."""
    gather(output, known, home, scope, limits, 60.0, is_still=is_still)


def listing(home: Path, scope: Scope, limits: RetrieveSettings) -> str:
    """A digest of the names, kinds, sizes, times and inodes of all that HOME walks. Runs as the student."""
    digest = hashlib.sha256()
    for entry in _walk(_open_home(home, scope), scope, limits):
        digest.update(_line(entry, scope))
    return digest.hexdigest()


def _open_home(home: Path, scope: Scope) -> int:
    """The path to the home may contain the administrator's links; the home itself must be the student's."""
    try:
        if scope.kind == HOME:
            _open_up(home)
        root = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"the home {home} cannot be read: {os.strerror(error.errno or 0).lower()}") from error
    if os.fstat(root).st_uid != os.geteuid():
        raise HostError(f"the home {home} belongs to uid {os.fstat(root).st_uid}, not to the student")
    return root


def _open_up(home: Path) -> None:
    """Restore u+rwx if the student removed it: before a home is deleted we must be able to read all of it."""
    status = os.stat(home)
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(home, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)


def _walk(base: int, scope: Scope, limits: RetrieveSettings) -> Iterator[files.Entry]:
    """What we handed out does not count towards the student's limit."""
    max_entries = limits.max_files + len(scope.handed_out)
    return files.walk(base, max_depth=limits.max_depth, max_entries=max_entries, is_left_out=scope.is_cache)


def _line(entry: files.Entry, scope: Scope) -> bytes:
    """A listing's line. Of a cache only the name counts."""
    status = entry.status
    if status is None or scope.is_cache(entry):
        stamp: tuple[int, ...] = ()
    else:
        stamp = (status.st_mode, *stamp_of(status))
    return json.dumps([entry.path, stamp, entry.obstacle]).encode("ascii") + b"\n"


def _read_known(known: int, stall: float) -> dict[str, Stored]:
    stored: dict[str, Stored] = {}
    while (frame := workers.read_frame(known, stall)) is not None:
        for row in rows.objects(frame.header["stored"]):
            stored[rows.text(row, "path")] = Stored(rows.stamp(row, "stamp"), rows.text(row, "sha256"))
    return stored


@dataclass(frozen=True, slots=True)
class _Link:
    path: str
    target: tuple[int, int] | None


class _Gathering:
    """One home's collection under way."""

    def __init__(
        self,
        scope: Scope,
        limits: RetrieveSettings,
        output: int,
        root: int,
        stored: Mapping[str, Stored],
        is_still: bool,
    ) -> None:
        self._is_still = is_still
        self._scope = scope
        self._limits = limits
        self._output = output
        self._stored = stored
        self._home = os.readlink(f"/proc/self/fd/{root}")
        self._device = os.fstat(root).st_dev
        self._accounted = {_identity(os.fstat(root))}
        self._links: list[_Link] = []
        self._counted = 0
        self._same: list[rows.Row] = []
        self._sent_at = time.monotonic()

    def open_material(self, root: int) -> int | None:
        """The material folder, or None after reporting why it is missing."""
        try:
            base = files.open_below(root, self._scope.target)
        except OSError as error:
            found = self._open_elsewhere(root, error)
            if found is None:
                return None
            base = found
        else:
            sought = self._scope.sought
            if sought and (words := moved_folder.emptied(root, base, self._scope.target, sought)):
                self.exclude("work", words)
        if os.fstat(base).st_dev != self._device:
            self.exclude("work", files.OTHER_DEVICE)
            return None
        self._accounted.add(_identity(os.fstat(base)))
        return base

    def _open_elsewhere(self, root: int, error: OSError) -> int | None:
        """The folder is missing: look for an assignment's under another name, and report what was found."""
        is_gone, is_replaced = error.errno == errno.ENOENT, error.errno in (errno.ENOTDIR, errno.ELOOP)
        words = "a link or file is in its place" if is_replaced else files.words_of(error)
        if self._scope.sought is None or not (is_gone or is_replaced):
            self.exclude("work", "the material folder is not there" if is_gone else words, incomplete=not is_gone)
            return None
        found = moved_folder.trace(root, self._scope.target, self._scope.sought)
        prefix = f"{words}; " if is_replaced else ""
        try:
            base = files.open_below(root, found.path) if found.path else None
        except OSError as another:
            self.exclude("work", f"{prefix}{found.words}; but {files.words_of(another)}")
            return None
        self.exclude("work", f"{prefix}{found.words}", incomplete=base is None)
        return base

    def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        if self._same and header["kind"] not in ("data", "end", "void"):
            self._flush_same()
        workers.write_frame(self._output, header, payload)
        self._sent_at = time.monotonic()

    def exclude(self, path: str, reason: str, *, incomplete: bool = True) -> None:
        self.send({"kind": "excluded", "path": path, "reason": reason, "incomplete": incomplete})

    def tick(self) -> None:
        if time.monotonic() - self._sent_at > _TICK_SECONDS:
            self.send({"kind": "tick"})

    def take(self, entry: files.Entry) -> None:
        self.tick()
        path = self._scope.store_path(entry.path)
        if self._scope.is_cache(entry):
            if self._scope.kind == HOME:
                self.exclude(path, "a cache", incomplete=False)
        elif entry.obstacle or entry.status is None:
            self.exclude(path, entry.obstacle)
        elif entry.is_folder:
            self._accounted.add(_identity(entry.status))
        elif entry.is_file:
            self._take_file(entry, entry.status, path)
        elif stat.S_ISLNK(entry.status.st_mode):
            self._take_link(entry, path)
        else:
            self.exclude(path, special_file(entry.status), incomplete=False)

    def _take_file(self, entry: files.Entry, status: os.stat_result, path: str) -> None:
        sent = self._scope.sent(path) if self._scope.kind == CHANGED else None
        if sent and (sent.size, sent.mtime_ns, sent.ctime_ns, sent.inode) == stamp_of(status):
            self._accounted.add(_identity(status))
            return
        stored = self._stored.get(path)
        if stored and stored.stamp == stamp_of(status) and self._scope.kind != HOME and self._fits(status):
            self._send_same(path, status, stamp_of(status), stored.sha256)
            return
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(0.05 * attempt)
            try:
                if self._read_file(entry, path, sent, stored, is_last=attempt == _ATTEMPTS - 1):
                    return
            except OSError as error:
                self.exclude(path, files.words_of(error))
                return
        self.exclude(path, IN_MOTION if self._is_still else "changed while it was read")

    def _read_file(
        self, entry: files.Entry, path: str, sent: HandedOut | None, stored: Stored | None, *, is_last: bool
    ) -> bool:
        """Send, skip or exclude the file as it is now; False when it changed meanwhile.

        If it is always open for writing, as a log file is, only its times can show a change.
        """
        descriptor, status = files.open_file(entry.name, entry.folder)
        try:
            reason = self._reason_to_refuse(descriptor, status)
            if reason:
                self.exclude(path, reason)
                return True
            is_open = leases.is_open_for_writing(descriptor)
            if is_open and self._is_still:
                self.exclude(path, HALF_SAVED)
            elif not self._is_still and (
                (is_open and not is_last) or _is_fresh(status, _LONG_WRITE_NS if is_open else _CLOCK_TICK_NS)
            ):
                return False
            stamp = _never_the_same(status) if is_open else stamp_of(status)
            known = {version.sha256 for version in (sent, stored) if version and version.size == status.st_size}
            sha256 = files.sha256_of(descriptor, status.st_size, self.tick) if known else ""
            if sha256 not in known:
                os.lseek(descriptor, 0, os.SEEK_SET)
                return self._send_bytes(descriptor, status, stamp, path)
            if _has_changed(descriptor, status):
                return False
            if sent and sha256 == sent.sha256:
                self._accounted.add(_identity(status))
            else:
                self._send_same(path, status, stamp, sha256)
            return True
        finally:
            os.close(descriptor)

    def _reason_to_refuse(self, descriptor: int, status: os.stat_result) -> str:
        """Why the file must not be read, '' when it may.

        Before a home is deleted only files that are cheap to make large have a limit: those with holes.
        """
        if status.st_dev != self._device:
            return files.OTHER_DEVICE
        if self._scope.kind == HOME and not files.is_sparse(descriptor, status):
            return ""
        if status.st_size > self._limits.max_file:
            kind = "a sparse file larger" if self._scope.kind == HOME else "larger"
            return f"{kind} than max_file ({self._limits.max_file} bytes)"
        if not self._fits(status):
            return f"with it there would be more than max_student ({self._limits.max_student} bytes)"
        return ""

    def _fits(self, status: os.stat_result) -> bool:
        return self._counted + status.st_size <= self._limits.max_student

    def _send_same(self, path: str, status: os.stat_result, stamp: Stamp, sha256: str) -> None:
        self._same.append(rows.stored_row(path, stamp, sha256))
        if len(self._same) >= _SAME_AT_A_TIME:
            self._flush_same()
        self._account(status)

    def _flush_same(self) -> None:
        same, self._same = self._same, []
        self.send({"kind": "same", "files": same})

    def _send_bytes(self, descriptor: int, status: os.stat_result, stamp: Stamp, path: str) -> bool:
        """False when the file changed meanwhile; what was sent of it is then void."""
        if status.st_size <= files.CHUNK:
            data = b"".join(files.chunks(descriptor, status.st_size))
            if _has_changed(descriptor, status, len(data)):
                return False
            self.send(_header("file", path, stamp), data)
        else:
            self.send(_header("begin", path, stamp))
            size = 0
            try:
                for data in files.chunks(descriptor, status.st_size):
                    self.send({"kind": "data"}, data)
                    size += len(data)
                is_void = _has_changed(descriptor, status, size)
            except BrokenPipeError:
                raise
            except OSError:
                self.send({"kind": "void"})
                raise
            self.send({"kind": "void" if is_void else "end"})
            if is_void:
                return False
        self._account(status)
        return True

    def _account(self, status: os.stat_result) -> None:
        self._accounted.add(_identity(status))
        if self._scope.kind != HOME or status.st_blocks * 512 < status.st_size:
            self._counted += status.st_size

    def _take_link(self, entry: files.Entry, path: str) -> None:
        """Remember the target of the link if it is a file or folder in the home."""
        try:
            descriptor = os.open(entry.name, os.O_PATH | os.O_CLOEXEC, dir_fd=entry.folder)
        except OSError as error:
            # In a folder of the home without search permission there could be work; anywhere else it is not ours.
            is_hidden = error.errno == errno.EACCES and self._points_home(entry)
            self.exclude(path, "a link to what cannot be read" if is_hidden else "a link", incomplete=is_hidden)
            return
        try:
            status = os.fstat(descriptor)
            where = os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        is_home = where.startswith(self._home + "/") and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode))
        self._links.append(_Link(path, _identity(status) if is_home else None))

    def _points_home(self, entry: files.Entry) -> bool:
        folder = os.readlink(f"/proc/self/fd/{entry.folder}")
        target = os.path.normpath(os.path.join(folder, os.readlink(entry.name, dir_fd=entry.folder)))
        return target.startswith(self._home + "/")

    def judge_links(self) -> None:
        """A link is incomplete when its target is in the home and was not collected itself."""
        for link in self._links:
            if link.target is None or link.target in self._accounted:
                self.exclude(link.path, "a link", incomplete=False)
            else:
                self.exclude(link.path, "a link to work in the home that is not retrieved itself")


def _header(kind: str, path: str, stamp: Stamp) -> dict[str, Any]:
    return {"kind": kind, "path": path, "stamp": stamp}


def _never_the_same(status: os.stat_result) -> Stamp:
    """For a file that is open for writing: an unfinished write(2) changes no times, so it must be read again."""
    size, mtime, ctime, _inode = stamp_of(status)
    return size, mtime, ctime, 0


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_fresh(status: os.stat_result, how: int) -> bool:
    """Whether it was written in the last `how` ns."""
    return 0 <= time.time_ns() - status.st_ctime_ns < how


def _has_changed(descriptor: int, status: os.stat_result, size: int | None = None) -> bool:
    """Whether the file has changed since it was opened, or gave another number of bytes."""
    return stamp_of(os.fstat(descriptor)) != stamp_of(status) or size not in (None, status.st_size)
