"""Reading an export on its new host: a child that is the teacher checks every file, and copies what is the teacher's.

Nothing in the folder is believed: it is opened by descriptors, no link is followed, and each file is compared with its
checksum both times that it is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.exchange.moving import manifest
from nblauncher.exchange.moving.manifest import Manifest, Row
from nblauncher.exchange.names import folders_above
from nblauncher.exchange.retrieve.tree import Tree, sync
from nblauncher.system import deletion, files
from nblauncher.system.streams import Voice

_EVERY = 0.5
_NO_LINKS = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_STAGING = ".import.partial-"
_AGAIN = "Nothing was changed. Copy the export again."


@dataclass(frozen=True, slots=True)
class Order:
    """What goes where: everything of `manifest.PLACED` that the export has, into the folder `into`."""

    folder: Path
    into: Path
    sha256: str
    """Of the manifest that was checked."""
    config: bytes
    """Instead of the export's, in which the port may be another."""


def check(output: int, folder: Path) -> None:
    """Check the manifest and every file; the last frame says what there is. InputError, RefusedError or HostError."""
    arriving = _Arriving.opened(folder, Voice(output))
    listed = arriving.manifest
    arriving.refuse_others()
    for row in listed.rows.values():
        arriving.verify(row)
    arriving.voice.send(
        {
            "kind": "done",
            "course": listed.course,
            "time": listed.time,
            "sha256": arriving.sha256,
            "files": len(listed.rows),
            "bytes": listed.bytes,
            "small": {name: row.sha256 for name, row in listed.rows.items() if "/" not in name},
        }
    )


def objection(into: Path, is_resumed: bool) -> str:
    """Why the course cannot be put there; '' if it can. Runs as the teacher, and looks only."""
    try:
        status = os.stat(into)
    except FileNotFoundError:
        if not os.access(into.parent, os.W_OK | os.X_OK):
            return f"there is no folder {into}, and the teacher cannot make it"
        return ""
    except OSError as error:
        return f"{into}: {os.strerror(error.errno or 0).lower()}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{into} is not a folder"
    if status.st_uid != os.geteuid():
        return f"{into} belongs to uid {status.st_uid}, not to the teacher"
    if status.st_mode & 0o002:
        return f"every account can write to {into}"
    names = set(os.listdir(into))
    known = {*manifest.PLACED, *(name for name in names if name.startswith(_STAGING))} if is_resumed else set()
    if names - known:
        return f"{into} is not empty"
    return ""


def place(output: int, order: Order) -> None:
    """Copy it, whole folder by whole folder, each to the disk before it gets its name; the config is last.

    HostError when the disk is full or something changed since it was checked; what was placed stays for the next run.
    """
    arriving = _Arriving.opened(order.folder, Voice(output))
    if arriving.sha256 != order.sha256:
        raise HostError(f"{order.folder} changed since it was checked", "Run the command again.")
    with contextlib.suppress(FileExistsError):
        os.mkdir(order.into, 0o700)
    into = os.open(order.into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in filter(lambda name: name.startswith(_STAGING), os.listdir(into)):
        deletion.delete_below(files.open_folder(name, into))
        os.rmdir(name, dir_fd=into)
    staging = f"{_STAGING}{secrets.token_hex(8)}"
    os.mkdir(staging, 0o700, dir_fd=into)
    folder = files.open_folder(staging, into)
    placing = _Placing(arriving, Tree(folder), Tree(os.dup(folder)))
    for name in manifest.PLACED:
        if _is_there(name, into):
            continue
        if name == manifest.CONFIG:
            placing.write_config(order.config)
        else:
            placing.copy(name)
        if _is_there(name, folder):
            sync(folder)
            os.rename(name, name, src_dir_fd=folder, dst_dir_fd=into)
    os.rmdir(staging, dir_fd=into)
    os.fsync(into)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@dataclass
class _Arriving:
    """An export that is being read."""

    root: int
    manifest: Manifest
    sha256: str
    voice: Voice
    _files: int = 0
    _bytes: int = 0
    _told_at: float = 0.0

    @classmethod
    def opened(cls, folder: Path, voice: Voice) -> _Arriving:
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be read as the teacher: {os.strerror(error.errno or 0).lower()}",
                "Name the folder that `nblauncher export` wrote; it must be the teacher's (`chown -R`).",
            ) from error
        try:
            descriptor, status = files.open_file(manifest.NAME, root)
        except FileNotFoundError:
            raise InputError(
                f"{folder} has no {manifest.NAME}", "It is not an export, or not a whole one. Nothing was changed."
            ) from None
        except OSError as error:
            raise _unsafe(manifest.NAME, error) from error
        owners = {os.fstat(root).st_uid, status.st_uid} - {0, os.geteuid()}
        with os.fdopen(descriptor, "rb") as file:
            if owners:
                raise RefusedError(
                    f"{folder} belongs to uid {owners.pop()}, who could have written anything into it",
                    "Nothing was changed. If you trust it, make it yours first (`chown -R`).",
                )
            if status.st_size > manifest.LARGEST:
                raise manifest.malformed("it is far too large")
            data = file.read(manifest.LARGEST)
        return cls(root, manifest.parse(data), hashlib.sha256(data).hexdigest(), voice)

    def refuse_others(self) -> None:
        """Everything in the folder must be a file that the manifest lists, or a folder that leads to one."""
        listed = self.manifest
        folders = {above for path in listed.rows for above in folders_above(path)} | {
            above for folder in listed.empty_folders for above in (folder, *folders_above(folder))
        }
        for entry in files.walk(self.root, max_depth=manifest.MAX_DEPTH, max_entries=2 * manifest.MAX_FILES):
            self.progress()
            if entry.obstacle or entry.status is None:
                raise HostError(f"{entry.path or 'the export'}: {entry.obstacle}", _AGAIN)
            if entry.is_folder and entry.path in folders:
                continue
            if entry.is_folder or (entry.is_file and entry.path not in (*listed.rows, manifest.NAME)):
                raise InputError(
                    f"the manifest does not list {entry.path[-200:]!r}, which is in the export",
                    "If you put it there, take it away. Nothing was changed.",
                )
            if not entry.is_file:
                raise RefusedError(
                    f"{entry.path[-200:]!r} is a link or a special file, and an export has none",
                    "Nothing was changed. Do not use it, or copy it again without links (`cp -r`, `tar`).",
                )

    def verify(self, row: Row) -> None:
        for _data in self.contents(row):
            pass

    def contents(self, row: Row) -> Iterator[bytes]:
        """InputError at the end when it is not what the manifest says."""
        descriptor = self._open(row)
        digest, size = hashlib.sha256(), 0
        try:
            for data in files.chunks(descriptor, row.size + 1):
                digest.update(data)
                size += len(data)
                self._bytes += len(data)
                self.progress()
                yield data
        finally:
            os.close(descriptor)
        if size != row.size or digest.hexdigest() != row.sha256:
            raise InputError(f"{row.path[-200:]!r} is not as it was exported: its checksum is another", _AGAIN)
        self._files += 1

    def _open(self, row: Row) -> int:
        above, _, name = row.path.rpartition("/")
        try:
            folder = files.open_below(self.root, above)
            try:
                return files.open_file(name, folder)[0]
            finally:
                os.close(folder)
        except FileNotFoundError:
            raise InputError(f"{row.path[-200:]!r} is missing from the export", _AGAIN) from None
        except OSError as error:
            raise _unsafe(row.path, error) from error

    def progress(self) -> None:
        if time.monotonic() - self._told_at > _EVERY:
            self._told_at = time.monotonic()
            self.voice.send({"kind": "progress", "files": self._files, "bytes": self._bytes})


@dataclass
class _Placing:
    """A copy of it under way."""

    arriving: _Arriving
    target: Tree
    again: Tree
    """The same, to link from."""
    _first: dict[tuple[str, int, bool], str] = field(default_factory=dict)
    """Where the first copy of a content with that time is, in the retrieved work, which is never written to."""

    def write_config(self, data: bytes) -> None:
        descriptor = self.target.create((manifest.CONFIG,))
        _write_all(descriptor, data)
        os.close(descriptor)

    def copy(self, top: str) -> None:
        """The file or folder of that name, if the export has one."""
        for row in self.arriving.manifest.rows.values():
            if row.top == top:
                self._copy(row)
        self._first.clear()
        for empty in self.arriving.manifest.empty_folders:
            if empty.partition("/")[0] == top:
                self.target.make_folder(files.parts_of(empty))
        if top == manifest.RETRIEVED and self.arriving.manifest.latest:
            os.symlink(self.arriving.manifest.latest, f"{top}/latest", dir_fd=self.target.root)

    def _copy(self, row: Row) -> None:
        key = row.sha256, row.mtime_ns, row.executable
        parts = files.parts_of(row.path)
        if row.top == manifest.RETRIEVED and key in self._first:
            try:
                self.target.link_from(self.again, files.parts_of(self._first[key]), parts)
                return self.arriving.progress()
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        descriptor = self.target.create(parts)
        try:
            for data in self.arriving.contents(row):
                _write_all(descriptor, data)
            if row.executable:
                os.fchmod(descriptor, 0o700)
            with contextlib.suppress(OverflowError, ValueError, OSError):
                os.utime(descriptor, ns=(row.mtime_ns, row.mtime_ns))
        finally:
            os.close(descriptor)
        if row.top == manifest.RETRIEVED:
            self._first[key] = row.path
        return None


def _unsafe(path: str, error: OSError) -> HostError | RefusedError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return RefusedError(
            f"{path[-200:]!r} is a link or a special file, and an export has none",
            "Nothing was changed. Do not use it.",
        )
    words = os.strerror(error.errno or 0).lower()
    return HostError(f"{path[-200:]!r} of the export cannot be read: {words}", _AGAIN)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
