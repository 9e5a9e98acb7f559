"""What merging comes to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Merged:
    """`conflicts`: cells that both had changed. Both versions are in the content, the student's first."""

    content: bytes
    conflicts: int = 0
    has_only_our_outputs: bool = False
    """Of a notebook: every output and widget in it is one that the teacher's versions have in the same cell."""


class UnmergeableError(Exception):
    """The versions cannot become one. Says why, in words that follow a colon."""
