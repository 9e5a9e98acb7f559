"""Writing an export: a child that is the teacher copies the course's folders and what root gives it.

Everything goes into a folder with a dot and a name of its own beside the new one; the manifest is written last, and
then the whole is renamed. What a crash left is deleted by the next export into the same place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.exchange.moving import manifest
from nblauncher.exchange.moving.manifest import Row
from nblauncher.exchange.names import special_file
from nblauncher.exchange.retrieve.tree import Tree, sync
from nblauncher.model import LEFT_OUT, Stamp, stamp_of
from nblauncher.system import deletion, files
from nblauncher.system.streams import Voice

_ATTEMPTS = 4
_MOST_TOLD = 100
"""What was left out, in the answer; the manifest has all of it."""
_NO_LINKS = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_GRADEBOOK = "gradebook.db"
_OF_SQLITE = tuple(f"{_GRADEBOOK}-{suffix}" for suffix in ("journal", "wal", "shm"))
_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Order:
    """What is exported, and where to: `folder` must not exist yet."""

    folder: Path
    about: Mapping[str, Any]
    """The head of the manifest."""
    sources: Mapping[str, Path]
    """The name in the export → the teacher's folder; one that is missing is left out, but for the material."""
    credentials: Path | None = None
    """Where the plain passwords are, if they are wanted."""


def objection(folder: Path, sources: Mapping[str, Path]) -> str:
    """Why nothing can be exported there; '' if it can. Runs as the teacher, and looks only."""
    real = Path(os.path.realpath(folder))
    for name, source in sources.items():
        below = Path(os.path.realpath(source))
        if real == below or below in real.parents:
            return f"{folder} is inside the course's {name}"
    if os.path.lexists(folder):
        return f"{folder} is there already"
    try:
        os.close(_open_parent(folder))
    except HostError as error:
        return error.problem
    return ""


def clean(folder: Path, patience: float = 2.0) -> None:
    """Delete what a dead export to that place left. Runs as the teacher."""
    parent, until = _open_parent(folder), time.monotonic() + patience
    while not _clean(parent, folder.name) and time.monotonic() < until:
        time.sleep(0.05)


def write(output: int, order: Order, contents: Mapping[str, bytes]) -> None:
    """Export; `contents` are the files that come from root. Frames say how far it is, the last one what became of it.

    HostError when the disk is full, or the file system cannot hold a name; nothing is left then.
    """
    parent = _open_parent(order.folder)
    _clean(parent, order.folder.name)
    name = f".{order.folder.name}.partial-{secrets.token_hex(8)}"
    os.mkdir(name, 0o700, dir_fd=parent)
    staging = files.open_folder(name, parent)
    fcntl.flock(staging, fcntl.LOCK_EX)
    try:
        writing = _Writing(Tree(staging), Tree(os.dup(staging)), Voice(output))
        writing.export(order, contents)
        sync(staging)
        if os.path.lexists(order.folder):
            raise RefusedError(f"{order.folder} is there now; nothing was exported", "Name another folder.")
        os.rename(name, order.folder.name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    except BaseException:
        deletion.delete_below(files.open_folder(name, parent))
        os.rmdir(name, dir_fd=parent)
        raise
    writing.tell_result()


def _open_parent(folder: Path) -> int:
    """HostError unless it is a folder of root's or the teacher's, or a sticky one as /tmp."""
    try:
        parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{folder.parent} cannot be used: {os.strerror(error.errno or 0).lower()}") from error
    status = os.fstat(parent)
    is_own = status.st_uid in (0, os.geteuid())
    if not is_own or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
        os.close(parent)
        raise HostError(f"{folder.parent} belongs to another account, or others can write to it")
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        os.close(parent)
        raise HostError(f"the teacher may not write in {folder.parent}")
    return parent


def _clean(parent: int, name: str) -> bool:
    """Delete what dead exports of that name left: their lock is free. Whether nothing is left then."""
    pattern = re.compile(rf"\.{re.escape(name)}\.partial-[0-9a-f]{{16}}")
    for entry in filter(pattern.fullmatch, os.listdir(parent)):
        with contextlib.suppress(OSError):
            left = files.open_folder(entry, parent)
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(left).st_uid == os.geteuid():
                deletion.delete_below(left)
                os.rmdir(entry, dir_fd=parent)
            os.close(left)
    return not any(map(pattern.fullmatch, os.listdir(parent)))


@dataclass
class _Writing:
    """The export under way."""

    tree: Tree
    again: Tree
    """The same, to link from."""
    voice: Voice
    rows: dict[str, Row] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    empty: set[str] = field(default_factory=set)
    total: int = 0
    """Bytes."""
    _linked: dict[tuple[int, int], tuple[str, Stamp]] = field(default_factory=dict)
    """Files with several names: where the first of them is in the export."""
    _told_at: float = 0.0

    def export(self, order: Order, contents: Mapping[str, bytes]) -> None:
        for name, data in contents.items():
            self._keep(name, functools.partial(_written, data), time.time_ns())
        if order.credentials is not None:
            self._copy_file(manifest.CREDENTIALS, order.credentials.name, _folder(order.credentials.parent))
        for name, source in order.sources.items():
            self._copy_folder(name, source)
        latest = _latest(order.sources[manifest.RETRIEVED])
        has_latest = bool(latest) and any(path.startswith(f"{manifest.RETRIEVED}/{latest}/") for path in self.rows)
        about = {**order.about, "latest": latest if has_latest else None}
        with os.fdopen(self.tree.create((manifest.NAME,)), "w", encoding="ascii") as file:
            file.writelines(manifest.lines(about, self.empty, self.left_out, self.rows.values()))
            if file.tell() > manifest.LARGEST:
                raise HostError("the course has too many files for one export")

    def tell_result(self) -> None:
        self.voice.send(
            {
                "kind": "done",
                "files": len(self.rows),
                "bytes": self.total,
                "left_out": [
                    {"path": one["path"][:1000], "reason": one["reason"]} for one in self.left_out[:_MOST_TOLD]
                ],
                "more": max(0, len(self.left_out) - _MOST_TOLD),
            }
        )

    def _progress(self) -> None:
        if time.monotonic() - self._told_at > _EVERY:
            self._told_at = time.monotonic()
            self.voice.send({"kind": "progress", "files": len(self.rows), "bytes": self.total})

    def _copy_folder(self, name: str, source: Path) -> None:
        try:
            root = _folder(source)
        except HostError:
            if name == manifest.MATERIAL:
                raise
            return
        empty = {name}
        skips = _SKIPS[name]
        for entry in files.walk(
            root, max_depth=manifest.MAX_DEPTH - 2, max_entries=manifest.MAX_FILES, is_left_out=skips
        ):
            self._progress()
            if skips(entry):
                continue
            path = files.join(name, entry.path)
            empty.discard(path.rpartition("/")[0])
            if entry.obstacle or entry.status is None:
                self._leave_out(path, entry.obstacle)
            elif entry.is_folder:
                empty.add(path)
            elif stat.S_ISLNK(entry.status.st_mode):
                self._leave_out(path, "a link")
            elif not entry.is_file:
                self._leave_out(path, special_file(entry.status))
            elif name == manifest.GRADING and entry.path == _GRADEBOOK:
                self._copy_gradebook(path, source / _GRADEBOOK, entry.folder)
            else:
                self._copy_file(path, entry.name, entry.folder)
        self.empty |= empty
        os.close(root)

    def _leave_out(self, path: str, reason: str) -> None:
        self.left_out.append({"path": path, "reason": reason})

    def _copy_file(self, path: str, name: str, folder: int) -> None:
        for attempt in range(_ATTEMPTS):
            time.sleep(0.05 * attempt)
            try:
                descriptor, status = files.open_file(name, folder)
            except OSError as error:
                return self._leave_out(path, files.words_of(error))
            try:
                if self._link(path, status) or self._copied(path, descriptor, status):
                    return None
            finally:
                os.close(descriptor)
        return self._leave_out(path, "changed while it was read")

    def _link(self, path: str, status: os.stat_result) -> bool:
        """Retrievals share unchanged files; so do their copies here."""
        first = self._linked.get((status.st_dev, status.st_ino))
        if first is None or first[1] != stamp_of(status):
            return False
        row = self.rows[first[0]]
        try:
            self.tree.link_from(self.again, files.parts_of(row.path), files.parts_of(path))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return False
        self.rows[path] = Row(path, row.size, row.sha256, row.mtime_ns, row.executable)
        return True

    def _copied(self, path: str, descriptor: int, status: os.stat_result) -> bool:
        """False when it changed meanwhile: nothing of it is left then."""

        def copy(target: int) -> tuple[int, str]:
            digest, size = hashlib.sha256(), 0
            for data in files.chunks(descriptor, status.st_size):
                digest.update(data)
                _write_all(target, data)
                size += len(data)
                self._progress()
            return size, digest.hexdigest()

        executable = bool(status.st_mode & stat.S_IXUSR)
        self._keep(path, copy, status.st_mtime_ns, executable=executable)
        if stamp_of(os.fstat(descriptor)) != stamp_of(status) or self.rows[path].size != status.st_size:
            self.tree.delete(files.parts_of(path))
            self.total -= self.rows.pop(path).size
            return False
        if status.st_nlink > 1:
            self._linked[status.st_dev, status.st_ino] = path, stamp_of(status)
        return True

    def _copy_gradebook(self, path: str, file: Path, folder: int) -> None:
        """As one transaction left it: grading by hand may be under way."""
        draft = f"/proc/self/fd/{self.tree.root}/.{_GRADEBOOK}"
        try:
            with (
                contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=30)) as source,
                contextlib.closing(sqlite3.connect(draft)) as target,
            ):
                source.backup(target)
        except sqlite3.Error:
            return self._copy_file(path, _GRADEBOOK, folder)  # no database: a file like any other
        else:
            mtime = os.stat(_GRADEBOOK, dir_fd=folder).st_mtime_ns
            with open(draft, "rb") as copy:
                return self._keep(path, lambda target: _poured(copy.fileno(), target), mtime)
        finally:
            for name in (draft, f"{draft}-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)

    def _keep(
        self, path: str, write: Callable[[int], tuple[int, str]], mtime_ns: int, *, executable: bool = False
    ) -> None:
        """A new file of the export, whose content and sha256 `write` makes."""
        try:
            target = self.tree.create(files.parts_of(path))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise HostError(
                f"the export cannot hold {path[-200:]!r}: {os.strerror(error.errno or 0).lower()}",
                "Export to a file system of Linux, and carry it as a tar archive.",
            ) from error
        try:
            size, sha256 = write(target)
            if executable:
                os.fchmod(target, 0o700)
            with contextlib.suppress(OverflowError, ValueError, OSError):
                os.utime(target, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(target)
        self.rows[path] = Row(path, size, sha256, mtime_ns, executable)
        self.total += size


def _folder(path: Path) -> int:
    """The path to it may contain links: it is the teacher's choice."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}") from error


def _latest(store: Path) -> str:
    try:
        return os.readlink(store / "latest")
    except OSError:
        return ""


def _no_staging(entry: files.Entry) -> bool:
    """Retrievals that are being written, and the link `latest`, which the manifest has."""
    return "/" not in entry.path and (entry.name.startswith(".") or entry.name == "latest")


_SKIPS: Mapping[str, Callable[[files.Entry], bool]] = {
    manifest.MATERIAL: lambda entry: entry.name in LEFT_OUT,
    manifest.RETRIEVED: _no_staging,
    manifest.GRADING: lambda entry: entry.path in _OF_SQLITE,
}


def _written(data: bytes, descriptor: int) -> tuple[int, str]:
    _write_all(descriptor, data)
    return len(data), hashlib.sha256(data).hexdigest()


def _poured(source: int, target: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), os.fstat(source).st_size
    for data in files.chunks(source, size):
        digest.update(data)
        _write_all(target, data)
    return size, digest.hexdigest()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
