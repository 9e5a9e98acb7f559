"""Records on their way through a pipe: objects by key, each field checked by the process that receives them.

What a child answers is not believed: its account may have stopped, changed or replaced it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nblauncher.errors import HostError
from nblauncher.model import Exclusion, Stamp
from nblauncher.system import files

Row = Mapping[str, Any]

_LONGEST_TEXT = 1 << 16
_LARGEST_NUMBER = 1 << 63
"""SQLite's integers are smaller than this."""
_SHA256 = re.compile("[0-9a-f]{64}")


def objects(value: object) -> Iterator[Row]:
    """The objects in a list; HostError for anything else."""
    if not isinstance(value, list):
        raise malformed("not a list")
    for row in value:
        if not isinstance(row, dict):
            raise malformed("not an object")
        yield row


def text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise malformed(f"{key} is not a text")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise malformed(f"{key} is not a text") from None
    return value


def path(row: Row, key: str, *, max_depth: int | None = None) -> str:
    """A relative path that leads down and is not empty."""
    value = text(row, key)
    if not files.parts_of(value, max_depth=max_depth):
        raise malformed(f"{key} is empty")
    return value


def utf8_path(row: Row, key: str, *, max_depth: int | None = None) -> str:
    """A path that SQLite can store."""
    value = path(row, key, max_depth=max_depth)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise malformed(f"{key} is not UTF-8") from None
    return value


def whole_number(row: Row, key: str) -> int:
    value = row.get(key)
    if type(value) is not int or not -_LARGEST_NUMBER <= value < _LARGEST_NUMBER:
        raise malformed(f"{key} is not a whole number")
    return value


def size(row: Row, key: str) -> int:
    value = whole_number(row, key)
    if value < 0:
        raise malformed(f"{key} is negative")
    return value


def truth(row: Row, key: str) -> bool:
    value = row.get(key)
    if not isinstance(value, bool):
        raise malformed(f"{key} is not true or false")
    return value


def sha256_or_empty(row: Row, key: str) -> str:
    value = text(row, key)
    if value and not _SHA256.fullmatch(value):
        raise malformed(f"{key} is not a sha256")
    return value


def stamp(row: Row, key: str) -> Stamp:
    value = row.get(key)
    if not isinstance(value, list | tuple) or len(value) != 4 or any(type(number) is not int for number in value):
        raise malformed(f"{key} is not four numbers")
    return value[0], value[1], value[2], value[3]


def stored_row(path: str, stamp: Stamp, sha256: str) -> dict[str, Any]:
    """A file that the receiver has, or has still."""
    return {"path": path, "stamp": stamp, "sha256": sha256}


def exclusion_row(exclusion: Exclusion) -> dict[str, Any]:
    return {"path": exclusion.path, "reason": exclusion.reason, "incomplete": exclusion.incomplete}


def exclusion_from(row: Row) -> Exclusion:
    return Exclusion(text(row, "path"), text(row, "reason"), truth(row, "incomplete"))


def malformed(what: str) -> HostError:
    return HostError(f"a file worker's answer is malformed: {what}")
