"""`submitted/STUDENT/ASSIGNMENT` of the teacher's course: written beside its place and exchanged whole. As the teacher.

Names beside it: `.ASSIGNMENT.partial-...` while it is written, `.ASSIGNMENT.ready-...` when it is complete, and after
the exchange the same for the one before. A killed run leaves one of them, and the next one clears it away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from nblauncher.errors import HostError
from nblauncher.exchange.retrieve.tree import Tree, set_time
from nblauncher.grading.course_folder import TIMESTAMP
from nblauncher.system import deletion, files, replacement

_MOST_ENTRIES = 200_000
_MOST_LEVELS = 200
_LONGEST_STAMP = 200


@dataclass(frozen=True, slots=True)
class Content:
    """What a submission holds besides its time stamp; equal digests are equal files. `timestamp` is '' for none."""

    digest: str
    timestamp: str


def digest(contents: Mapping[str, str]) -> str:
    """Of files' sha256 by name."""
    lines = sorted(json.dumps([name, sha256]) for name, sha256 in contents.items())
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Place:
    """`folder` is `submitted/STUDENT`, open; `name` the assignment's."""

    folder: int
    name: str

    def content(self) -> Content | None:
        """What is there; None for nothing. OSError, also when it is not a folder."""
        try:
            found = files.open_folder(self.name, self.folder)
        except FileNotFoundError:
            return None
        return _content(found)

    def tidy(self, known: Collection[str]) -> None:
        """Clear away what killed runs left. What has none of the known digests is not ours alone: it is kept."""
        for name in files.names_of(self.folder, _MOST_ENTRIES):
            if name.startswith(f".{self.name}.partial-"):
                self._delete(name)
            elif name.startswith(f".{self.name}.ready-") or replacement.original_name(name) == self.name:
                self._settle(name, known)

    def stage(self, source: int, wanted: Mapping[str, tuple[str, str]], timestamp: str) -> str:
        """Copy files into a complete submission that has no place yet; its name. Not on the disk before a sync.

        `wanted`: where the file goes → its path below `source`, and the sha256 that it must have. OSError; HostError.
        """
        name = f".{self.name}.partial-{secrets.token_hex(4)}"
        os.mkdir(name, 0o700, dir_fd=self.folder)
        tree, origin = Tree(files.open_folder(name, self.folder)), Tree(os.dup(source))
        try:
            for new, (path, sha256) in wanted.items():
                _copy(origin, path, tree, new, sha256)
            _write(tree, timestamp)
        except BaseException:
            self._delete(name)
            raise
        finally:
            tree.close()
            origin.close()
        ready = name.replace(".partial-", ".ready-")
        os.rename(name, ready, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        return ready

    def take(self, ready: str, *, is_kept: bool) -> str:
        """Give the staged submission its place. The one before is deleted, or kept under the name that is returned."""
        try:
            replacement.rename_to_free(self.folder, ready, self.name)
            ready = ""
        except FileExistsError:
            replacement.exchange(self.folder, ready, self.name)
        os.fsync(self.folder)
        if ready and not is_kept:
            self._delete(ready)
        return self._keep(ready) if ready and is_kept else ""

    def restamp(self, timestamp: str) -> None:
        """Replace the time stamp alone."""
        tree = Tree(files.open_folder(self.name, self.folder))
        new = f".{TIMESTAMP}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                tree.delete((new,))
            _write(tree, timestamp, new)
            os.rename(new, TIMESTAMP, src_dir_fd=tree.root, dst_dir_fd=tree.root)
        finally:
            tree.close()

    def _settle(self, left: str, known: Collection[str]) -> None:
        found = files.open_folder(left, self.folder)
        is_known = _content(found).digest in known
        if self.content() is None:  # the file system cannot exchange, and a kill came between two steps
            os.rename(left, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        elif is_known:
            self._delete(left)
        else:
            self._keep(left)

    def _keep(self, left: str) -> str:
        name = f"{self.name}.edited-{secrets.token_hex(4)}"
        os.rename(left, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        return name

    def _delete(self, name: str) -> None:
        """Under a name that says so: half of it must not pass for something edited."""
        if not name.startswith(f".{self.name}.partial-"):
            doomed = f".{self.name}.partial-{secrets.token_hex(4)}"
            os.rename(name, doomed, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            name = doomed
        found = files.open_folder(name, self.folder)
        try:
            deletion.delete_below(found)
            os.rmdir(name, dir_fd=self.folder)
        finally:
            os.close(found)


def _content(found: int) -> Content:
    """Closes the folder. What is no regular file, or cannot be read, makes it unlike any submission of ours."""
    contents: dict[str, str] = {}
    timestamp = ""
    try:
        for entry in files.walk(found, max_depth=_MOST_LEVELS, max_entries=_MOST_ENTRIES):
            if entry.path == f".{TIMESTAMP}.new" or (entry.is_folder and not entry.obstacle):
                continue
            if entry.obstacle or not entry.is_file:
                contents[entry.path] = "?"
                continue
            descriptor, status = files.open_file(entry.name, entry.folder)
            try:
                if entry.path == TIMESTAMP:
                    timestamp = os.read(descriptor, _LONGEST_STAMP).decode("ascii", "replace").strip()
                else:
                    contents[entry.path] = files.sha256_of(descriptor, status.st_size)
            finally:
                os.close(descriptor)
    finally:
        os.close(found)
    return Content(digest(contents), timestamp)


def _copy(origin: Tree, path: str, tree: Tree, new: str, sha256: str) -> None:
    """A copy, because a teacher may edit what is submitted and the stored file must stay as it was."""
    source, status = origin.open(files.parts_of(path))
    try:
        target = tree.create(files.parts_of(new))
        try:
            found = hashlib.sha256()
            for data in files.chunks(source, status.st_size):
                found.update(data)
                _write_all(target, data)
            if found.hexdigest() != sha256:
                raise HostError(f"{path} in the store is not what was retrieved")
            set_time(target, status.st_mtime_ns)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _write(tree: Tree, timestamp: str, name: str = TIMESTAMP) -> None:
    target = tree.create((name,))
    try:
        _write_all(target, f"{timestamp}\n".encode("ascii"))
        os.fsync(target)
    finally:
        os.close(target)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
