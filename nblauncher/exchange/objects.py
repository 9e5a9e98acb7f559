"""Root's store of versions: a file per content, named by its sha256, below a folder that only root can open.

Equal contents are one file. A file appears whole under its name, and is compared with its name when it is read: what a
power cut or a bad disk left is never taken for a version. Bytes only: nothing here interprets them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nblauncher.errors import HostError
from nblauncher.system import files, libc

_NAME = re.compile("[0-9a-f]{64}")
_PART = ".new-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def _full_disk_reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise HostError(f"the disk of {folder} is full", "Free some space there; nothing was lost.") from error


@dataclass
class ObjectDraft:
    """A content being written."""

    store: ObjectStore
    file: IO[bytes]
    part: Path
    size: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        with _full_disk_reported(self.store.folder):
            self.file.write(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return str(self._digest.hexdigest())

    def keep(self) -> str:
        """Give it its name, the sha256 of what was written. Once."""
        sha256 = self.sha256
        path = self.store.path(sha256)
        with _full_disk_reported(self.store.folder):
            self.file.flush()
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self.part.rename(path)
        return sha256


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """`folder` is made, 0700, when the first object is put into it."""

    folder: Path

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def put(self, sha256: str, parts: Iterable[bytes]) -> None:
        """Keep a content. HostError when it does not match its name or the disk is full; nothing is left then.

        It survives a power cut after `sync`.
        """
        if self.has(sha256):
            return
        with self.draft() as draft:
            for data in parts:
                draft.write(data)
            if draft.keep() != sha256:
                raise HostError(f"what was to be kept as {sha256[:12]} is another content")

    @contextlib.contextmanager
    def draft(self) -> Iterator[ObjectDraft]:
        """A content on its way in; unless it is kept, nothing is left. HostError when the disk is full."""
        part = self.folder / f"{_PART}{secrets.token_hex(8)}"
        try:
            with _full_disk_reported(self.folder):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    yield ObjectDraft(self, file, part)
        finally:
            part.unlink(missing_ok=True)

    def sync(self) -> None:
        """Write everything to disk. OSError when a write was lost."""
        if self.folder.exists():
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                libc.syncfs(descriptor)
            finally:
                os.close(descriptor)

    def read(self, sha256: str, write: Callable[[bytes], object]) -> int | None:
        """Give a content to `write`, piece by piece; its size, or None when it is missing or damaged. A damaged one is
        forgotten, and what was written of it is void.
        """
        path = self.path(sha256)
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while data := file.read(files.CHUNK):
                    digest.update(data)
                    write(data)
                size = file.tell()
        except FileNotFoundError:
            return None
        if digest.hexdigest() == sha256:
            return size
        path.unlink(missing_ok=True)
        return None

    def is_whole(self, sha256: str) -> bool:
        """Whether the content is there and matches its name."""
        return self.read(sha256, lambda _data: None) is not None

    def size(self) -> int:
        """Bytes of all contents."""
        return sum(self.path(name).stat().st_size for name in self.names())

    def names(self) -> Iterator[str]:
        """Of all objects."""
        if self.folder.exists():
            for above in sorted(self.folder.iterdir()):
                if above.is_dir():
                    yield from (name for file in above.iterdir() if _NAME.fullmatch(name := above.name + file.name))

    def forget(self, unwanted: Iterable[str]) -> int:
        """Forget those of these contents that it has; how many bytes were freed. Under the lock, as `prune`."""
        freed = 0
        for name in unwanted:
            path = self.path(name)
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
                path.unlink()
        return freed

    def prune(self, wanted: Collection[str]) -> int:
        """Forget every content but these, and what killed runs left; how many bytes were freed.

        Only under the course's lock: no other process may put one meanwhile.
        """
        freed = 0
        for name in list(self.names()):
            if name not in wanted:
                path = self.path(name)
                freed += path.stat().st_size
                path.unlink()
        for part in self.folder.glob(f"{_PART}*"):
            part.unlink()
        return freed

    def path(self, sha256: str) -> Path:
        if not _NAME.fullmatch(sha256):
            raise ValueError(f"{sha256[:80]!r} is not a sha256")
        return self.folder / sha256[:2] / sha256[2:]
