"""How much disk space one student's stored files may take, so that no student takes space from another.

Only that student's files count: a content that several students have is on the disk once and counts for each of them,
so that no student can change what another may store by keeping a copy or by deleting it. Material that was handed out
does not count. Each path counts as well, because millions of names also fill a disk.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

BLOCK = 4096
"""A content takes whole blocks of the disk."""
ENTRY = 200
"""Bytes that the ledger needs for a file, beside its path."""


def content_bytes(size: int) -> int:
    """The bytes that a content of this size counts as."""
    return -(-size // BLOCK) * BLOCK


def entry_bytes(path: bytes) -> int:
    """The bytes that a file counts as, beside its content."""
    return ENTRY + len(path)


@dataclass
class Share:
    """The space for one student's files, used up as they arrive. A large content gives way to a smaller one.

    `free`: the contents that do not count, with their sizes. `words`: the reason given for a file without space.
    """

    size: int
    free: Mapping[str, int] = field(default_factory=dict)
    words: str = "the student's share of the history is used up"
    taken: int = 0
    _contents: dict[str, int] = field(default_factory=dict)
    _entries: dict[str, int] = field(default_factory=dict)
    _largest: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free_sizes = frozenset(self.free.values())

    def could_take(self, size: int) -> bool:
        """Whether it is worth reading a content of that size. It may be one that does not count."""
        return content_bytes(size) <= self.size or size in self._free_sizes

    def take(self, path: bytes, sha256: str, size: int) -> tuple[str, ...] | None:
        """Count a file. Returns the contents that have to go for it, or None when there is no space."""
        counts = sha256 not in self.free
        content = content_bytes(size) if counts and sha256 not in self._contents else 0
        over = self.taken + entry_bytes(path) + content - self.size
        gone: tuple[str, ...] = ()
        if over > 0:
            largest = self._find_largest()
            if largest is None or not (over <= self._contents[largest] > content) or largest == sha256:
                return None
            self._forget(largest)
            gone = (largest,)
        self.taken += entry_bytes(path) + content
        self._entries[sha256] = self._entries.get(sha256, 0) + entry_bytes(path)
        if counts and sha256 not in self._contents:
            self._contents[sha256] = content
            heapq.heappush(self._largest, (-content, sha256))
        return gone

    def _find_largest(self) -> str | None:
        while self._largest and self._largest[0][1] not in self._contents:
            heapq.heappop(self._largest)
        return self._largest[0][1] if self._largest else None

    def _forget(self, sha256: str) -> None:
        self.taken -= self._contents.pop(sha256) + self._entries.pop(sha256)
