"""The new versions as a student's child reads them: one open file that root wrote, with all of them in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nblauncher.errors import HostError
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.system import drafts, files


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes in a spool, or in memory."""

    size: int
    data: bytes = b""
    descriptor: int = -1
    offset: int = 0
    tick: Callable[[], None] = lambda: None

    def read(self) -> bytes:
        return self.data if self.descriptor < 0 else os.pread(self.descriptor, self.size, self.offset)

    def draft(self, folder: int, mode: int) -> drafts.Draft:
        """A file with this content and no name yet. OSError when the disk is full."""
        draft = drafts.new_draft(folder, mode)
        try:
            self._copy(draft.descriptor)
        except BaseException:
            draft.close()
            raise
        return draft

    def _copy(self, target: int) -> None:
        if self.descriptor < 0:
            write(target, self.data)
            return
        buffer = memoryview(bytearray(min(files.CHUNK, self.size)))
        done = 0
        while done < self.size:
            self.tick()
            size = os.preadv(self.descriptor, [buffer[: min(self.size - done, len(buffer))]], self.offset + done)
            if size == 0:
                raise HostError("the copy of the material ends too early")
            write(target, buffer[:size])
            done += size


@dataclass(frozen=True, slots=True)
class Spool:
    """`offsets` by path of the material, `versions` by sha256: offset and size of earlier ones (and of these)."""

    descriptor: int
    offsets: Mapping[str, int]
    versions: Mapping[str, tuple[int, int]]
    tick: Callable[[], None]

    def of(self, item: Item) -> Content:
        return Content(item.size, b"", self.descriptor, self.offsets[item.path], self.tick)

    def version(self, sha256: str) -> Content | None:
        """None when it is not in the spool."""
        if sha256 not in self.versions:
            return None
        offset, size = self.versions[sha256]
        return Content(size, b"", self.descriptor, offset, self.tick)


def write(descriptor: int, data: bytes | memoryview) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
