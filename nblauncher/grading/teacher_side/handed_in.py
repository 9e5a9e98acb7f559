"""What `retrieve --assignment` noted of a submission (grading.filling), for those who grade it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_LARGEST = 4 << 20
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class HandedIn:
    """`extension`: seconds that the student has more than the class; None where there is no deadline."""

    extension: float | None = None
    late_seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def noted(records: Path, username: str) -> HandedIn:
    """Nothing for a submission that came in another way, or a note that cannot be used."""
    try:
        with (records / f"{username}.submission.json").open("rb") as file:
            found = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return HandedIn()
    if not isinstance(found, dict) or found.get("version") != 1:
        return HandedIn()
    due, of_class = _moment(found.get("due")), _moment(found.get("due_class"))
    extension = (due - of_class).total_seconds() if due is not None and of_class is not None else None
    renamed = found.get("renamed")
    pairs = list(renamed.items())[:_MOST_NAMED] if isinstance(renamed, dict) else []
    late = found.get("late_seconds")
    warnings = tuple(f"{name} was handed in as {path}" for name, path in pairs)
    return HandedIn(extension, float(late) if isinstance(late, (int, float)) else 0.0, warnings)


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
