"""How much room one student's kept files may take, so that nobody's bytes cost another's.

What is counted depends on that student's files alone: a content that several students have is on the disk once and
counts for each of them, so that one of them can neither take room from another by keeping a copy nor by deleting it.
Material that was handed out counts for nobody. A path counts as well: millions of names fill a disk, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

BLOCK = 4096
"""A content takes whole blocks of the disk."""
ENTRY = 200
"""Bytes for what the ledger remembers of a file, beside its path."""


def content_bytes(size: int) -> int:
    """What a content of so many bytes counts."""
    return -(-size // BLOCK) * BLOCK


def entry_bytes(path: bytes) -> int:
    """What a file counts beside its content."""
    return ENTRY + len(path)


@dataclass
class Share:
    """What one student's files may add up to while they come in. A large content gives way to a smaller one.

    `free`: the contents that count for nobody, with their sizes. `words`: what is said of a file without room.
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
        """Whether it is worth reading a content of that size. It may be one of those that count for nobody."""
        return content_bytes(size) <= self.size or size in self._free_sizes

    def take(self, path: bytes, sha256: str, size: int) -> tuple[str, ...] | None:
        """Count a file: the contents that have to go for it, or None when there is no room."""
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
