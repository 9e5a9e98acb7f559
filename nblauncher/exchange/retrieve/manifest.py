"""manifest.json, one per student and retrieval: what is in the folder, what was left out, and what we had sent.

    {"nblauncher": 1, "username": ..., "scope": "changed|all|home", "time": "2026-11-20T09:15:00+01:00",
     "complete": true, "exclusions": [{"path", "reason", "incomplete"}],
     "files": [{"path", "size", "sha256", "mtime", "sent", "stamp"}]}

`path` is below the student's folder in the store (`work/...` or `home/...`); bytes that are not UTF-8 are surrogate
escapes (os.fsdecode). `mtime` is the student's, in the host's zone with the offset, null when no calendar has it.
`sent` is the sha256 of what we had handed out at that path, or null. `stamp` lets the next retrieval see that nothing
changed: the student's mtime, ctime (ns) and inode, and the stored file's mtime.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nblauncher.errors import HostError
from nblauncher.exchange.retrieve.tree import Tree
from nblauncher.exchange.rows import Row, exclusion_row
from nblauncher.model import Exclusion, Stamp
from nblauncher.system import files

NAME = "manifest.json"
_LARGEST = 64 << 20
_MOST_REPORTED = 200
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Record:
    """A stored file: where, what, and the times it had in the home and has in the store (ns)."""

    path: str
    sha256: str
    stamp: Stamp
    stored_mtime_ns: int
    sent: str | None = None

    @property
    def size(self) -> int:
        return self.stamp[0]

    def as_json(self) -> Mapping[str, Any]:
        size, mtime, ctime, inode = self.stamp
        stamp = [mtime, ctime, inode, self.stored_mtime_ns]
        return {"path": self.path, "size": size, "sha256": self.sha256} | {
            "mtime": _in_words(mtime),
            "sent": self.sent,
            "stamp": stamp,
        }


def write(
    tree: Tree,
    about: Mapping[str, Any],
    records: Iterable[Record],
    exclusions: Iterable[Exclusion],
    *,
    is_complete: bool,
) -> None:
    """Write the manifest into the student's folder, a line per file. OSError."""
    left_out = [exclusion_row(exclusion) for exclusion in exclusions]
    head = {"nblauncher": 1, **about, "complete": is_complete, "exclusions": left_out}
    with os.fdopen(tree.create((NAME,)), "w", encoding="ascii") as file:
        file.write(json.dumps(head)[:-1] + ', "files": [')
        separator = "\n"
        for record in records:
            file.write(separator + json.dumps(record.as_json()))
            separator = ",\n"
        file.write("\n]}\n")


def sha256(tree: Tree) -> str:
    """Of the stored manifest itself. OSError."""
    descriptor, status = tree.open((NAME,))
    try:
        return files.sha256_of(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def read(tree: Tree) -> list[Record] | None:
    """The well-formed records of an earlier manifest; None where it is missing, damaged or not our own."""
    try:
        descriptor, status = tree.open((NAME,))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > _LARGEST:
            return None
        try:
            listed = json.load(file)["files"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
    return [record for row in listed if (record := _record(row))] if isinstance(listed, list) else None


def is_unchanged(tree: Tree, record: Record, *, is_read: bool) -> bool:
    """Whether the stored file still has the size and time that we gave it and, when read, the same bytes."""
    try:
        descriptor, status = tree.open(files.parts_of(record.path))
    except (OSError, HostError):
        return False
    try:
        is_same = (status.st_size, status.st_mtime_ns) == (record.size, record.stored_mtime_ns)
        return is_same and (not is_read or files.sha256_of(descriptor, record.size) == record.sha256)
    finally:
        os.close(descriptor)


def stamp_in(given: object) -> Stamp | None:
    """A stamp that came through a pipe, None for anything else."""
    if not isinstance(given, list) or len(given) != 4 or any(type(number) is not int for number in given):
        return None
    return given[0], given[1], given[2], given[3]


def digest(records: Iterable[Record]) -> str:
    """Of the paths, sizes and sha256 of everything stored; two equal digests are equal work."""
    lines = sorted(json.dumps([record.path, record.size, record.sha256]) for record in records)
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


def worst(exclusions: Iterable[Exclusion]) -> list[Row]:
    """The exclusions for reports, incomplete ones first; the manifest has all of them."""
    ranked = sorted(exclusions, key=lambda exclusion: not exclusion.incomplete)
    reported = [replace(exclusion, path=exclusion.path[:4000]) for exclusion in ranked[:_MOST_REPORTED]]
    rest = ranked[_MOST_REPORTED:]
    if rest:
        reported.append(Exclusion(NAME, f"lists {len(rest)} more", any(exclusion.incomplete for exclusion in rest)))
    return [exclusion_row(exclusion) for exclusion in reported]


def _record(row: object) -> Record | None:
    if not isinstance(row, dict):
        return None
    path, sha256, stamp = row.get("path"), row.get("sha256"), row.get("stamp")
    size: Any = row.get("size")
    if not isinstance(path, str) or not isinstance(sha256, str) or not isinstance(stamp, list) or len(stamp) != 4:
        return None
    if any(type(number) is not int for number in (size, *stamp)) or not _SHA256.fullmatch(sha256):
        return None
    return Record(path, sha256, (size, stamp[0], stamp[1], stamp[2]), stamp[3])


def _in_words(mtime_ns: int) -> str | None:
    try:
        return datetime.fromtimestamp(mtime_ns / 1e9).astimezone().isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):
        return None
