"""The result of a merge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Merged:
    """`conflicts`: cells that both had changed. The content has both versions of them, the student's first."""

    content: bytes
    conflicts: int = 0
    has_only_our_outputs: bool = False
    """For a notebook: the teacher's versions have each of its outputs and widgets in the same cell."""


class UnmergeableError(Exception):
    """The versions cannot become one. Says why, in words that follow a colon."""
