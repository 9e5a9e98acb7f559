"""Records of gradings as root reads them: what the teacher's child sent, or what is in the teacher's folder, is data.

Their content goes into tables, JSON and files of grades, so everything has its kind and its bounds here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

VERSION = 1
MOST_REMARKS, LONGEST_REMARK, LONGEST_ERROR = 40, 300, 1000
"""Warnings or flags of one record, and characters of one and of a failure."""

_MOST_NOTEBOOKS = 1000


def checked(given: object) -> dict[str, Any] | None:
    """The record with the keys that root uses; None when it is not one."""
    if not isinstance(given, Mapping) or given.get("version") != VERSION:
        return None
    error, digest, notebooks = given.get("error"), given.get("digest"), given.get("notebooks")
    numbers = {name: _number(given.get(name)) for name in ("score", "max_score", "late_seconds")}
    if any(value is None and given.get(name) is not None for name, value in numbers.items()):
        return None
    if not isinstance(digest, str) or not _is_time(given.get("graded_at")):
        return None
    if not (error is None or isinstance(error, str)) or not isinstance(notebooks, Mapping):
        return None
    return {
        "version": VERSION,
        "digest": digest[:200],
        "graded_at": given["graded_at"],
        **numbers,
        "needs_manual_grade": given.get("needs_manual_grade") is True,
        "warnings": _remarks(given.get("warnings")),
        "flags": _remarks(given.get("flags")),
        "error": None if error is None else error[:LONGEST_ERROR],
        "notebooks": dict(list(notebooks.items())[:_MOST_NOTEBOOKS]),
    }


def _number(value: object) -> float | None:
    """A finite one: JSON has no others."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _remarks(given: object) -> list[str]:
    found = given if isinstance(given, list) else []
    return [words[:LONGEST_REMARK] for words in found[:MOST_REMARKS] if isinstance(words, str)]
