"""A folder of the teacher's store, reached by descriptors: files are created once, folders as they are needed."""

from __future__ import annotations

import contextlib
import os

from nblauncher.errors import HostError
from nblauncher.system import files, libc


class Tree:
    """Files below one open folder. Keeps the folder of the last file open, because files come folder by folder."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._last: tuple[tuple[str, ...], int] = ((), root)

    def create(self, parts: tuple[str, ...]) -> int:
        """A new file, 0600, open for writing; its folders are made 0700. OSError, EEXIST when it exists."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(parts[-1], flags, 0o600, dir_fd=self._folder(parts[:-1], is_made=True))

    def make_folder(self, parts: tuple[str, ...]) -> None:
        """A folder and those above it, 0700. OSError."""
        self._folder(parts, is_made=True)

    def open(self, parts: tuple[str, ...]) -> tuple[int, os.stat_result]:
        """A regular file that belongs to this process's account, open for reading. OSError."""
        descriptor, status = files.open_file(parts[-1], self._folder(parts[:-1]))
        if status.st_uid != os.geteuid():
            os.close(descriptor)
            raise PermissionError
        return descriptor, status

    def delete(self, parts: tuple[str, ...]) -> None:
        os.unlink(parts[-1], dir_fd=self._folder(parts[:-1]))

    def link_from(self, other: Tree, parts: tuple[str, ...], new: tuple[str, ...] = ()) -> os.stat_result:
        """Hard-link the other tree's file, under the same name or a new one. OSError, EMLINK and EXDEV among them."""
        new = new or parts
        source, here = other._folder(parts[:-1]), self._folder(new[:-1], is_made=True)
        os.link(parts[-1], new[-1], src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)
        return os.stat(new[-1], dir_fd=here, follow_symlinks=False)

    def close(self) -> None:
        if self._last[1] != self.root:
            os.close(self._last[1])
        os.close(self.root)

    def _folder(self, parts: tuple[str, ...], *, is_made: bool = False) -> int:
        if parts != self._last[0]:
            descriptor = self._descend(parts, is_made)
            if self._last[1] != self.root:
                os.close(self._last[1])
            self._last = (parts, descriptor)
        return self._last[1]

    def _descend(self, parts: tuple[str, ...], is_made: bool) -> int:
        if not parts:
            return self.root
        current = os.dup(self.root)
        for part in parts:
            try:
                below = _made(part, current) if is_made else files.open_folder(part, current)
            finally:
                os.close(current)
            current = below
        return current


def sync(descriptor: int) -> None:
    """Write the whole file system of an open file to disk. HostError.

    One call for a class's thousands of files costs a fraction of an fsync(2) each.
    """
    try:
        libc.syncfs(descriptor)
    except OSError as error:
        raise HostError(f"the store could not be written to disk: {(error.strerror or '').lower()}") from error


def set_time(descriptor: int, mtime_ns: int) -> int:
    """Give the stored file the student's time if the file system can hold it; the time that it has then (ns)."""
    with contextlib.suppress(OverflowError, ValueError, OSError):
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    return os.fstat(descriptor).st_mtime_ns


def _made(name: str, folder: int) -> int:
    try:
        return files.open_folder(name, folder)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # made by another student's child
            os.mkdir(name, 0o700, dir_fd=folder)
        return files.open_folder(name, folder)
