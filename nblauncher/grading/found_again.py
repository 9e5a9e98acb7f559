"""Which of a student's notebooks is which of the assignment's, if it was renamed, copied or moved. Pure.

A notebook of the assignment is recognised by the ids of its cells (nbgrader's `grade_id`, which other programs keep,
and the `id` of JEP 62), else by what was handed out under its name. A student's notebook is not parsed for that: the
ids are looked for in its bytes, as keys with a text that JSON writes in this form only outside of other texts. So it
costs no more memory than the file, whatever the file is, and one that is cut off or is not JSON is no error.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LARGEST = 20_000_000
"""Bytes of a notebook in which ids are looked for."""
NOTEBOOK = ".ipynb"
CHECKPOINTS = ".ipynb_checkpoints"

_KEY = re.compile(rb'"(grade_id|id)"[ \t\r\n]{0,99}:[ \t\r\n]{0,99}"((?:[^"\\]|\\.){1,300})"', re.S)
_MOST_KEYS = 100_000
"""In one file; more are not looked at."""
_LEAST = 3
"""A notebook is the one sought if it has one in so many of its ids."""


@dataclass(frozen=True, slots=True)
class Original:
    """A notebook of the assignment: the ids of its cells, and what this student was handed under its name."""

    grade_ids: frozenset[str] = frozenset()
    cell_ids: frozenset[str] = frozenset()
    sha256: str = ""
    inode: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file of the student's. `ids` are those of its cells that an original has as well."""

    path: str
    sha256: str = ""
    inode: int = 0
    mtime_ns: int = 0
    grade_ids: frozenset[str] = frozenset()
    cell_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """`renamed`: the assignment's name → the student's path. `others`: the same, with further notebooks that have its
    cells and were not taken. `missing`: names for which there is none.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def original(data: bytes) -> Original:
    """The teacher's notebook, by the ids of its cells; without any if it is not a notebook."""
    try:
        cells = json.loads(data)["cells"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Original()
    grade_ids, cell_ids = set(), set()
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict):
            grade_ids |= _texts(_below(_below(cell, "metadata"), "nbgrader").get("grade_id"))
            cell_ids |= _texts(cell.get("id"))
    return Original(frozenset(grade_ids), frozenset(cell_ids))


def may_be_a_notebook(path: str) -> bool:
    """By its name, also with the ending that a browser put behind it."""
    parts = path.split("/")
    return CHECKPOINTS not in parts and (NOTEBOOK in parts[-1].lower() or parts[-1].lower().endswith(".json"))


def ids_in(data: bytes, originals: Iterable[Original]) -> tuple[frozenset[str], frozenset[str]]:
    """The grade ids and cell ids of these originals that the student's file has as well."""
    grade_ids: set[str] = set()
    cell_ids: set[str] = set()
    for one in originals:
        grade_ids |= one.grade_ids
        cell_ids |= one.cell_ids
    found: dict[bytes, set[str]] = {b"grade_id": set(), b"id": set()}
    for match in itertools.islice(_KEY.finditer(data), _MOST_KEYS):
        if text := _unescaped(match[2]):
            found[match[1]].add(text)
    return frozenset(found[b"grade_id"] & grade_ids), frozenset(found[b"id"] & cell_ids)


def match(originals: Mapping[str, Original], candidates: Iterable[Candidate]) -> Found:
    """Find the notebooks of the assignment by name. A file that has the right name is the one, whatever is in it.

    Else it is the one with the most matching cells, of these the newest; a file stands for one name only.
    """
    files = {candidate.path: candidate for candidate in candidates}
    pairs = [
        (_likeness(one, candidate), candidate.mtime_ns, name, candidate.path)
        for name, one in originals.items()
        for candidate in files.values()
        if candidate.path not in originals and _is_like(one, candidate)
    ]
    pairs.sort(key=lambda pair: (-pair[0], -pair[1], pair[2], pair[3]))
    renamed: dict[str, str] = {}
    for _count, _time, name, path in pairs:
        if name not in files and name not in renamed and path not in renamed.values():
            renamed[name] = path
    others: dict[str, list[str]] = {}
    listed = set(renamed.values())
    for _count, _time, name, path in pairs:
        if path not in listed:
            others.setdefault(name, []).append(path)
            listed.add(path)
    missing = tuple(name for name in originals if name not in files and name not in renamed)
    return Found(renamed, {name: tuple(paths) for name, paths in others.items()}, missing)


def _is_like(one: Original, candidate: Candidate) -> bool:
    """A file with other cells is not it, even with the inode of what was handed out: inodes are used again."""
    if one.sha256 and one.sha256 == candidate.sha256:
        return True
    if one.grade_ids or one.cell_ids:
        return _is_much(one.grade_ids, candidate.grade_ids) or _is_much(one.cell_ids, candidate.cell_ids)
    return one.inode != 0 and one.inode == candidate.inode


def _is_much(wanted: frozenset[str], there: frozenset[str]) -> bool:
    found = len(wanted & there)
    return found > 0 and found * _LEAST >= len(wanted)


def _likeness(one: Original, candidate: Candidate) -> int:
    return len(one.grade_ids & candidate.grade_ids) + len(one.cell_ids & candidate.cell_ids)


def _below(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _texts(value: object) -> set[str]:
    return {value} if isinstance(value, str) and value else set()


def _unescaped(text: bytes) -> str:
    """What a JSON text says; '' when it is none."""
    if b"\\" not in text:
        return text.decode("utf-8", "replace")
    try:
        return str(json.loads(b'"' + text + b'"'))
    except ValueError:
        return ""
