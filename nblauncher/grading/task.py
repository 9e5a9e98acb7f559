"""What all submissions of one run have in common, whoever judges them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nblauncher.model import Account, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`root` is the teacher's folder of the course; limits, seconds and bytes are those of one submission."""

    teacher: Account
    root: Path
    assignment: str
    limits: Limits
    seconds: int
    disk: int
    """Bytes of its files."""
    output: int
    """Bytes of what it prints."""
    uids: range
    """Submissions run as these."""
