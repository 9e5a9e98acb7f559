"""The files of a submission as the teacher's child reads them: plain files, bounded, no link followed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.grading.course_folder import TIMESTAMP
from nblauncher.system import files

MOST_NOTEBOOK = 20_000_000
"""Bytes of a notebook that is graded."""

MOST_FILES = 5000
_DEEPEST = 32
_PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Given:
    """One file: its path below the submission, and its size in bytes."""

    path: str
    size: int


class Submission:
    """A folder `submitted/STUDENT/ASSIGNMENT`. HostError when there is none."""

    def __init__(self, folder: Path) -> None:
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"there is no submission in {folder}: {error.strerror}") from error
        self.left_out: list[str] = []
        self._count = 0
        self.files = tuple(sorted(self._walk(self._folder, ""), key=lambda given: given.path))

    def close(self) -> None:
        os.close(self._folder)

    @property
    def size(self) -> int:
        return sum(given.size for given in self.files)

    @property
    def notebooks(self) -> dict[str, Given]:
        """Those at the top, by name: nbgrader looks at no others."""
        return {
            given.path[:-6]: given for given in self.files if given.path.endswith(".ipynb") and "/" not in given.path
        }

    def read(self, given: Given, most: int) -> bytes:
        """HostError when it is larger."""
        if given.size > most:
            raise HostError(
                f"{given.path} has {given.size / 1e6:.0f} MB, and at most {most / 1e6:.0f} MB can be graded"
            )
        return b"".join(self.parts(given, most))

    def parts(self, given: Given, most: int) -> Iterator[bytes]:
        descriptor = self._open(given.path)
        try:
            while most > 0 and (part := os.read(descriptor, min(_PART, most))):
                most -= len(part)
                yield part
        finally:
            os.close(descriptor)

    def timestamp(self) -> str:
        """As nbgrader writes it; empty when there is none."""
        for given in self.files:
            if given.path == TIMESTAMP:
                return self.read(given, 200).decode(errors="replace").strip()
        return ""

    def digest(self) -> str:
        """The same for the same names and contents."""
        found = hashlib.sha256()
        for given in self.files:
            content = hashlib.sha256()
            for part in self.parts(given, given.size):
                content.update(part)
            found.update(json.dumps([given.path, content.hexdigest()]).encode())
        return found.hexdigest()

    def _open(self, path: str) -> int:
        *folders, name = files.parts_of(path)
        above = self._folder
        opened = []
        try:
            for folder in folders:
                opened.append(files.open_folder(folder, above))
                above = opened[-1]
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
        finally:
            for one in opened:
                os.close(one)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise HostError(f"{path} is not a file any more")
        return descriptor

    def _walk(self, folder: int, prefix: str) -> Iterator[Given]:
        for name in sorted(os.listdir(folder)):
            path = f"{prefix}{name}"
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            self._count += 1
            if self._count > MOST_FILES:
                raise HostError(f"there are more than {MOST_FILES} files")
            if stat.S_ISDIR(facts.st_mode) and path.count("/") < _DEEPEST:
                below = files.open_folder(name, folder)
                try:
                    yield from self._walk(below, f"{path}/")
                finally:
                    os.close(below)
            elif stat.S_ISREG(facts.st_mode):
                yield Given(path, facts.st_size)
            else:
                self.left_out.append(f"{path} is not a file and was left out")


def digest_of(folder: Path) -> str:
    """HostError or OSError when it cannot be read."""
    submission = Submission(folder)
    try:
        return submission.digest()
    finally:
        submission.close()


def record(file: Path) -> Mapping[str, Any]:
    """What is remembered of a grading; empty when there is nothing, or nothing that can be read."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("version") == 1 else {}
