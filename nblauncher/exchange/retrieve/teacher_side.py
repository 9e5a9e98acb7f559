"""The teacher's side of a retrieval: a child that is the teacher writes one student's stream below a staging folder.

It believes nothing that comes through the pipe: every path is checked again, every file is created (O_EXCL) as 0600 in
0700 folders of this run, and every limit is enforced here too. It cannot check only what the bytes mean.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.config.settings import RetrieveSettings
from nblauncher.errors import HostError
from nblauncher.exchange.retrieve import intake, manifest
from nblauncher.exchange.retrieve.manifest import Record
from nblauncher.exchange.retrieve.scope import HOME, Scope
from nblauncher.exchange.retrieve.tree import Tree, set_time, sync
from nblauncher.exchange.rows import stored_row
from nblauncher.model import Exclusion, Stamp
from nblauncher.system import files, workers

STOPPED = "the copy was stopped before its end"
STALLED = "the copy stalled or was stopped"

_RESERVE = 512_000_000
"""Bytes of the store's disk that we never fill, or a twentieth of a small disk."""
_RESERVED_INODES = 1000
_WORTH_DROPPING = 65_536
_LISTED_AT_A_TIME = 100
_UNUSABLE_NAME = (errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Order:
    """What to receive: one student's work of one scope, into the folder `staging` below `target`."""

    target: Path
    staging: str
    username: str
    scope: Scope
    limits: RetrieveSettings
    time: str
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the manifest."""
    previous: str = ""
    """The published folder of the student's last retrieval; its unchanged files are linked."""


def receive(order: Order, stream: int, known: int, stall: float) -> Mapping[str, Any]:
    """Write the student's folder with its manifest. Runs as the teacher; answers with what the folder amounts to.

    HostError when the stream stalls, ends early or breaks its rules, when the disk is full, or when, for HOME, a file
    that is read again from disk is not what came through the pipe.
    """
    target = os.open(order.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    staging = files.open_folder(order.staging, target)
    os.mkdir(order.username, 0o700, dir_fd=staging)
    receiving = _Receiving(order, Tree(files.open_folder(order.username, staging)))
    receiving.find_unchanged(target)
    receiving.list_unchanged(known)
    os.close(known)
    while intake.take(_next(stream, stall), receiving):
        pass
    return receiving.finish()


def _next(stream: int, stall: float) -> workers.Frame:
    try:
        frame = workers.read_frame(stream, stall)
    except TimeoutError as error:
        raise HostError(STALLED) from error
    if frame is None:
        raise HostError(STOPPED)
    return frame


@dataclass
class _Incoming:
    """A file on its way in; `descriptor` is -1 when the store cannot hold it and its bytes are dropped."""

    path: str
    parts: tuple[str, ...]
    stamp: Stamp
    descriptor: int
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class _Receiving:
    """One student's folder under way."""

    def __init__(self, order: Order, tree: Tree) -> None:
        self._order = order
        self._tree = tree
        self._previous: Tree | None = None
        self._unchanged: dict[str, Record] = {}
        self._before: dict[str, str] | None = None
        """The sha256 of each file of the last retrieval, by path; None when that is gone."""
        self._records: dict[str, Record] = {}
        self._exclusions: list[Exclusion] = []
        self._incoming: _Incoming | None = None
        self._bytes = 0
        self._is_written = False

    def find_unchanged(self, target: int) -> None:
        """Find the files of the last retrieval that are as we wrote them: by size and time; for HOME by sha256."""
        if not self._order.previous:
            return
        try:
            folder = files.open_below(target, f"{self._order.previous}/{self._order.username}")
        except OSError:
            return
        self._previous = Tree(folder)
        records = manifest.read(self._previous)
        self._before = None if records is None else {record.path: record.sha256 for record in records}
        for record in records or ():
            if manifest.is_unchanged(self._previous, record, is_read=self._order.scope.kind == HOME):
                self._unchanged[record.path] = record

    def list_unchanged(self, known: int) -> None:
        """List for the student's child what it need not send again."""
        stored = [stored_row(record.path, record.stamp, record.sha256) for record in self._unchanged.values()]
        for start in range(0, len(stored), _LISTED_AT_A_TIME):
            workers.write_frame(known, {"stored": stored[start : start + _LISTED_AT_A_TIME]})

    @property
    def is_within(self) -> bool:
        return self._incoming is not None

    def finish(self) -> Mapping[str, Any]:
        if self._is_written:
            self._settle()
        if self._order.scope.kind == HOME:
            self._verify()
        is_complete = not any(exclusion.incomplete for exclusion in self._exclusions)
        order = self._order
        about = {"username": order.username, "scope": order.scope.kind, "time": order.time, **order.about}
        manifest.write(self._tree, about, self._records.values(), self._exclusions, is_complete=is_complete)
        return {
            "files": len(self._records),
            "bytes": self._bytes,
            "digest": manifest.digest(self._records.values()),
            "exclusions": manifest.worst(self._exclusions),
            "manifest": manifest.sha256(self._tree),
            **self._news(),
        }

    def _news(self) -> Mapping[str, Any]:
        """What the student changed since the last retrieval, or since the material was handed out."""
        before = self._before or {}
        changed = sum(record.sha256 not in (before.get(record.path), record.sent) for record in self._records.values())
        return {
            "changed": changed,
            "gone": len(before.keys() - self._records.keys()),
            "has_previous": self._before is not None,
        }

    def begin(self, header: Mapping[str, Any]) -> None:
        path, parts, stamp = self._checked(header)
        self._check_space(stamp[0])
        try:
            descriptor = self._tree.create(parts)
        except OSError as error:
            if error.errno not in _UNUSABLE_NAME:
                raise
            self.exclude(path, f"the store cannot hold this name: {os.strerror(error.errno).lower()}", True)
            descriptor = -1
        self._incoming = _Incoming(path, parts, stamp, descriptor)

    def write(self, data: bytes) -> None:
        incoming = self._expected()
        incoming.size += len(data)
        if incoming.size > incoming.stamp[0]:
            raise intake.broken("more bytes than announced")
        incoming.digest.update(data)
        self._is_written = True
        view = memoryview(data)
        while view and incoming.descriptor >= 0:
            view = view[os.write(incoming.descriptor, view) :]

    def end(self) -> None:
        incoming = self._expected()
        if incoming.size != incoming.stamp[0]:
            raise intake.broken("fewer bytes than announced")
        self._incoming = None
        if incoming.descriptor < 0:
            return
        stored_mtime = set_time(incoming.descriptor, incoming.stamp[1])
        os.close(incoming.descriptor)
        self._record(incoming.path, incoming.digest.hexdigest(), incoming.stamp, stored_mtime)

    def drop(self) -> None:
        incoming = self._expected()
        self._incoming = None
        if incoming.descriptor >= 0:
            os.close(incoming.descriptor)
            self._tree.delete(incoming.parts)

    def same(self, header: Mapping[str, Any]) -> None:
        path, parts, stamp = self._checked(header)
        record = self._unchanged.get(path)
        if record is None or self._previous is None or record.sha256 != header.get("sha256") or record.size != stamp[0]:
            raise intake.broken("a file that the store does not have")
        try:
            status = self._tree.link_from(self._previous, parts)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                raise
            self._copy(header, parts, record)
            return
        self._record(path, record.sha256, stamp, status.st_mtime_ns)

    def _copy(self, header: Mapping[str, Any], parts: tuple[str, ...], record: Record) -> None:
        """Copy the bytes where the file system refuses another link."""
        if self._previous is None:
            raise intake.broken("a file that the store does not have")
        descriptor, _status = self._previous.open(parts)
        self.begin(header)
        for data in files.chunks(descriptor, record.size):
            self.write(data)
        os.close(descriptor)
        self.end()
        if self._records[record.path].sha256 != record.sha256:
            raise HostError(f"{record.path} in {self._order.previous} changed while it was read")

    def _record(self, path: str, sha256: str, stamp: Stamp, stored_mtime: int) -> None:
        sent = self._order.scope.sent(path)
        self._records[path] = Record(path, sha256, stamp, stored_mtime, sent.sha256 if sent else None)
        self._bytes += stamp[0]

    def exclude(self, path: str, reason: str, incomplete: bool) -> None:
        self._exclusions.append(Exclusion(path, reason[:200], incomplete))
        self._check_count()

    def _expected(self) -> _Incoming:
        if self._incoming is None:
            raise intake.broken("bytes of no file")
        return self._incoming

    def _checked(self, header: Mapping[str, Any]) -> tuple[str, tuple[str, ...], Stamp]:
        """Path and stamp of an announced file; HostError when it lies outside, or over a limit."""
        order = self._order
        path = intake.text(header, "path")
        parts = files.parts_of(path, max_depth=order.limits.max_depth + 1)
        if len(parts) < 2 or parts[0] not in (("work", "home") if order.scope.kind == HOME else ("work",)):
            raise intake.broken(f"a file at {path[:200]!r}")
        stamp = manifest.stamp_in(header.get("stamp"))
        if stamp is None:
            raise intake.broken("no size and times")
        if stamp[0] < 0 or path in self._records:
            raise intake.broken("a negative size or a file twice")
        limits = order.limits
        if order.scope.kind != HOME and (stamp[0] > limits.max_file or self._bytes + stamp[0] > limits.max_student):
            raise intake.broken("more bytes than max_file or max_student")
        self._check_count()
        return path, parts, stamp

    def _check_count(self) -> None:
        most = self._order.limits.max_files + len(self._order.scope.handed_out)
        if len(self._records) > most or len(self._exclusions) > 2 * most + 1000:
            raise intake.broken("more entries than max_files")

    def _check_space(self, size: int) -> None:
        disk = os.fstatvfs(self._tree.root)
        reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // 20)
        if size > disk.f_bavail * disk.f_frsize - reserve:
            raise HostError(
                f"disk full at {self._order.target}",
                f"Free {(size + reserve) // 1_000_000 + 1} MB there; {reserve // 1_000_000} MB are kept in reserve.",
            )
        if disk.f_files and disk.f_favail < min(_RESERVED_INODES, disk.f_files // 20):
            raise HostError(
                f"disk full at {self._order.target}: hardly any inodes are left", "Delete some files there."
            )

    def _settle(self) -> None:
        """Write everything to disk and drop it from the page cache: a class's copies would only push out what is in
        use.

        (On a virtual machine that gets its memory page by page, this made the whole run 2.5 times faster.)
        """
        sync(self._tree.root)
        for record in self._records.values():
            if record.size >= _WORTH_DROPPING and record.path not in self._unchanged:
                descriptor, _status = self._tree.open(files.parts_of(record.path))
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def _verify(self) -> None:
        """Read every stored file again, from disk if possible, and compare it with what was received."""
        for record in self._records.values():
            descriptor, status = self._tree.open(files.parts_of(record.path))
            if status.st_size != record.size or files.sha256_of(descriptor, status.st_size) != record.sha256:
                raise HostError(f"{record.path} is not in the store as it was read", "Check the disk of the store.")
            os.close(descriptor)
