"""The owner's side of the material: a child that is the owner lists, hashes and reads it.

Below the source folder nothing follows a link, so nothing outside of it is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import InputError
from nblauncher.exchange import rows
from nblauncher.exchange.names import special_file
from nblauncher.exchange.rows import Row
from nblauncher.model import EMPTY_FOLDER, LEFT_OUT, Exclusion, Stamp, stamp_of
from nblauncher.system import files
from nblauncher.system.drafts import PREFIX
from nblauncher.system.streams import Voice

MAX_DEPTH = 64
MAX_ENTRIES = 20_000
_MAX_HOLES = 1 << 26
_ATTEMPTS = 4
_ROWS = 200
_FRESH_NS = 2_000_000_000
_BITS = ((stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid"), (stat.S_ISVTX, "sticky"))


@dataclass(frozen=True, slots=True)
class Item:
    """One file of the material: path below the source, size in bytes, sha256, and 0600 or 0700 as the mode to write."""

    path: str
    size: int
    sha256: str
    mode: int = 0o600
    stamp: Stamp = (0, 0, 0, 0)
    """Of the teacher's file when it was hashed; zeros when it was written so recently that times prove nothing."""

    def to_row(self) -> Row:
        return {
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "mode": self.mode,
            "stamp": self.stamp,
        }

    @classmethod
    def from_row(cls, row: Row) -> Item:
        """HostError unless the path leads down and the numbers are numbers."""
        path = rows.utf8_path(row, "path", max_depth=MAX_DEPTH)
        mode = 0o700 if row.get("mode") == 0o700 else 0o600
        stamp = rows.stamp(row, "stamp")
        return cls(path, rows.size(row, "size"), rows.sha256_or_empty(row, "sha256"), mode, stamp)


def scan(output: int, source: Path, known: Mapping[str, Item], names_only: bool = False) -> None:
    """List and hash the material. Runs as the owner. `names_only`: no file is read, and none has a sha256."""
    scan = _Scan(Voice(output), known, names_only)
    for entry in files.walk(
        open_source(source),
        max_depth=MAX_DEPTH,
        max_entries=MAX_ENTRIES,
        is_left_out=lambda entry: entry.name in LEFT_OUT,
    ):
        if entry.status is None and entry.name == "":
            raise InputError(f"the material folder {source} has {entry.obstacle}; is it the right one?")
        if entry.name not in LEFT_OUT:
            scan.take(entry)
    scan.finish()


def open_source(source: Path) -> int:
    """The path to the source may contain links: it is the teacher's choice."""
    try:
        return os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise no_source(source) from error
    except PermissionError as error:
        raise InputError(f"the material folder {source} may not be read by its owner") from error


def no_source(source: Path) -> InputError:
    return InputError(f"the material folder {source} does not exist", "Create it or set material.source.")


class _Scan:
    def __init__(self, voice: Voice, known: Mapping[str, Item], names_only: bool) -> None:
        self._voice = voice
        self._known = known
        self._names_only = names_only
        self._items: list[Row] = []
        self._exclusions: list[Row] = []
        self._folders: dict[str, bool] = {}

    def take(self, entry: files.Entry) -> None:
        self._voice.tick()
        above = entry.path.rpartition("/")[0]
        self._folders[above] = True
        reason = _reason_to_refuse(entry)
        if reason:
            self._exclude(entry.path, reason)
        elif entry.obstacle or entry.status is None:
            self._exclude(entry.path, entry.obstacle, incomplete=entry.obstacle != files.OTHER_DEVICE)
        elif entry.is_folder:
            self._folders[entry.path] = False
        else:
            self._take_file(entry, entry.status)
        if len(self._items) >= _ROWS:
            self._send()

    def finish(self) -> None:
        for path, has_any in self._folders.items():
            if not has_any:
                self._exclude(path, EMPTY_FOLDER)
        self._send()

    def _exclude(self, path: str, reason: str, *, incomplete: bool = False) -> None:
        self._exclusions.append(rows.exclusion_row(Exclusion(path, reason, incomplete)))

    def _send(self) -> None:
        for start in range(0, max(len(self._exclusions), 1), _ROWS):
            exclusions = self._exclusions[start : start + _ROWS]
            self._voice.send({"kind": "rows", "items": self._items, "exclusions": exclusions})
            self._items = []
        self._exclusions = []

    def _take_file(self, entry: files.Entry, status: os.stat_result) -> None:
        if self._names_only:
            self._items.append(Item(entry.path, status.st_size, "").to_row())
            return
        try:
            item = self._known_item(entry, status) or self._hashed(entry)
        except OSError as error:
            self._exclude(entry.path, files.words_of(error), incomplete=True)
            return
        if item is None:
            self._exclude(entry.path, "changed while it was read", incomplete=True)
            return
        self._items.append(item.to_row())
        bits = [word for bit, word in _BITS if status.st_mode & bit]
        if bits:
            self._exclude(entry.path, f"handed out without its {' and '.join(bits)} bit")

    def _known_item(self, entry: files.Entry, status: os.stat_result) -> Item | None:
        known = self._known.get(entry.path)
        is_same = known is not None and known.stamp == stamp_of(status) and known.mode == _mode(status)
        return known if is_same else None

    def _hashed(self, entry: files.Entry) -> Item | None:
        for attempt in range(_ATTEMPTS):
            time.sleep(0.05 * attempt)
            descriptor, status = _open_file(entry.name, entry.folder)
            try:
                sha256 = files.sha256_of(descriptor, status.st_size, self._voice.tick)
                if stamp_of(os.fstat(descriptor)) == stamp_of(status):
                    return _made_item(entry.path, sha256, status)
            finally:
                os.close(descriptor)
        return None


def _reason_to_refuse(entry: files.Entry) -> str:
    """Why an entry is not handed out, '' when it is."""
    if not _is_text(entry.name):
        return "its name is not UTF-8"
    if entry.name.startswith(PREFIX):
        return "the name is one that nblauncher uses itself"
    if entry.status is None or entry.is_folder:
        return ""
    if stat.S_ISLNK(entry.status.st_mode):
        return "a link is not handed out"
    if not entry.is_file:
        return f"{special_file(entry.status)} is not handed out"
    if entry.status.st_nlink > 1 and os.geteuid() == 0:
        # Root can read everything, so a user with write access to the folder could link a root-only file into it.
        return "it has several names (hard links) and the course is root's"
    return ""


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _open_file(name: str, folder: int) -> tuple[int, os.stat_result]:
    """As files.open_file, but refuses other mounts, hard links if we are root, and files that are mostly holes."""
    descriptor, status = files.open_file(name, folder)
    holes = status.st_size - status.st_blocks * 512
    if (
        status.st_dev != os.fstat(folder).st_dev
        or (status.st_nlink > 1 and os.geteuid() == 0)
        or (holes > _MAX_HOLES and files.is_sparse(descriptor, status))
    ):
        os.close(descriptor)
        raise OSError(errno.EFBIG if holes > _MAX_HOLES else errno.ESTALE, "")
    return descriptor, status


def _mode(status: os.stat_result) -> int:
    return 0o700 if status.st_mode & stat.S_IXUSR else 0o600


def _made_item(path: str, sha256: str, status: os.stat_result) -> Item:
    """Within two seconds of a write another one may leave the times unchanged."""
    is_fresh = time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < _FRESH_NS
    return Item(path, status.st_size, sha256, _mode(status), (0, 0, 0, 0) if is_fresh else stamp_of(status))


def send(output: int, source: Path, paths: Iterable[str]) -> None:
    """Stream these files. Runs as the owner."""
    voice = Voice(output)
    root = open_source(source)
    for path in paths:
        above, _, name = path.rpartition("/")
        try:
            folder = files.open_below(root, above)
            try:
                is_sent = _send_file(voice, path, name, folder)
            finally:
                os.close(folder)
            reason = "" if is_sent else "changed while it was read"
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = files.words_of(error)
        if reason:
            voice.send({"kind": "excluded", **rows.exclusion_row(Exclusion(path, reason, incomplete=True))})


def _send_file(voice: Voice, path: str, name: str, folder: int) -> bool:
    """False when the file kept changing; root's side has dropped what was sent of it."""
    for attempt in range(_ATTEMPTS):
        time.sleep(0.05 * attempt)
        descriptor, status = _open_file(name, folder)
        try:
            voice.send({"kind": "file", "path": path})
            digest = hashlib.sha256()
            size = 0
            try:
                for data in files.chunks(descriptor, status.st_size):
                    digest.update(data)
                    voice.send({"kind": "data"}, data)
                    size += len(data)
            except BrokenPipeError:
                raise
            except OSError:
                voice.send({"kind": "void"})
                raise
            if size == status.st_size and stamp_of(os.fstat(descriptor)) == stamp_of(status):
                voice.send({"kind": "end", "item": _made_item(path, digest.hexdigest(), status).to_row()})
                return True
            voice.send({"kind": "void"})
        finally:
            os.close(descriptor)
    return False
