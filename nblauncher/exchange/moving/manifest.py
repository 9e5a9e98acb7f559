"""manifest.json of an exported class: every file with its sha256, in a form that other systems can read too. Pure.

    {"nblauncher_export": 1, "program": ..., "course": ..., "time": "2026-11-30T17:00:00+01:00", "latest": ...,
     "empty_folders": [...], "left_out": [{"path", "reason"}],
     "files": [{"path", "size", "sha256", "mtime_ns", "executable"}]}

`path` is below the export's folder; bytes that are not UTF-8 are surrogate escapes (os.fsdecode). Whoever brings an
export may have written all of it, so `parse` believes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.exchange.names import folders_above
from nblauncher.system import files

VERSION = 1
NAME = "manifest.json"
LARGEST = 512 << 20

CONFIG, ROSTER, TEXTS, RECORDS = "notebooks.cfg", "students.csv", "texts.yaml", "records.json"
REQUIREMENTS, GRADING_REQUIREMENTS = "requirements.txt", "grading-requirements.txt"
HASHES, RECEIPT_KEY, CREDENTIALS = "hashes.json", "receipt.key", "credentials.csv"
MATERIAL, RETRIEVED, GRADING = FOLDERS = ("material", "retrieved", "grading")
OF_ROOT = (RECORDS, HASHES, RECEIPT_KEY)
"""Root's own memory: on the new host it goes there again, and not into the course's folder."""
FILES = (ROSTER, TEXTS, REQUIREMENTS, GRADING_REQUIREMENTS, CREDENTIALS)
PLACED = (*FILES, *FOLDERS, CONFIG)
"""What goes into the course's folder. The config is last: without it the folder is not a course."""

MAX_DEPTH = 200
MAX_FILES = 2_000_000
_DAMAGED = "It is damaged or not one of nblauncher's. Nothing was changed. Copy it again, or export again."
_SHA256 = re.compile("[0-9a-f]{64}")
_ONE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_LARGEST_NUMBER = 1 << 63


@dataclass(frozen=True, slots=True)
class Row:
    """A file of the export."""

    path: str
    size: int
    sha256: str
    mtime_ns: int
    executable: bool = False

    @property
    def top(self) -> str:
        return self.path.partition("/")[0]

    def as_json(self) -> Mapping[str, Any]:
        return {
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "mtime_ns": self.mtime_ns,
            "executable": self.executable,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that manifest.json says and that the program uses."""

    course: str
    time: str
    """When it was exported, ISO 8601 with the offset of the old host's zone."""
    latest: str = ""
    """The newest full retrieval, which `retrieved/latest` leads to."""
    empty_folders: tuple[str, ...] = ()
    rows: Mapping[str, Row] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(row.size for row in self.rows.values())


def head(course: str, program: str, time: str, latest: str) -> dict[str, Any]:
    return {
        "nblauncher_export": VERSION,
        "program": program,
        "course": course,
        "time": time,
        "latest": latest or None,
    }


def lines(
    about: Mapping[str, Any], empty_folders: Iterable[str], left_out: Iterable[Mapping[str, str]], rows: Iterable[Row]
) -> Iterator[str]:
    """The manifest as ASCII, a line for each file."""
    front = {**about, "empty_folders": sorted(empty_folders), "left_out": list(left_out)}
    yield json.dumps(front)[:-1] + ', "files": ['
    separator = "\n"
    for row in rows:
        yield separator + json.dumps(row.as_json())
        separator = ",\n"
    yield "\n]}\n"


def parse(data: bytes) -> Manifest:
    """InputError for anything that is malformed, RefusedError for a newer version or a path that leads elsewhere."""
    found = checked_json(data, NAME)
    if not isinstance(found, dict) or "nblauncher_export" not in found:
        raise malformed("it is not the manifest of an export")
    version = found["nblauncher_export"]
    if type(version) is not int or version < 1:
        raise malformed("its version is not a number")
    if version > VERSION:
        raise RefusedError(
            f"this export has version {version}, and this nblauncher reads version {VERSION}",
            "Install a newer nblauncher on this host. Nothing was changed.",
        )
    course, latest = found.get("course"), found.get("latest")
    if not isinstance(course, str):
        raise malformed("it names no course")
    time = found.get("time")
    if not isinstance(time, str) or not _is_time(time):
        raise malformed("its time is not a time")
    if latest is not None and not (isinstance(latest, str) and _ONE_NAME.fullmatch(latest)):
        raise malformed("latest is not the name of a retrieval")
    listed, empty = found.get("files"), found.get("empty_folders")
    if not isinstance(listed, list) or not isinstance(empty, list) or len(listed) + len(empty) > MAX_FILES:
        raise malformed("files or empty_folders is not a list, or is far too long")
    rows: dict[str, Row] = {}
    for given in listed:
        row = _row(given)
        if row.path in rows:
            raise malformed("it lists a file twice")
        rows[row.path] = row
    return _consistent(Manifest(course, time, latest or "", tuple(map(_path, empty)), rows))


def _consistent(manifest: Manifest) -> Manifest:
    """Nothing may be a file and a folder, and only what an export has may be at the top."""
    for row in manifest.rows.values():
        known = FOLDERS if "/" in row.path else (*FILES, *OF_ROOT, CONFIG)
        if row.top not in known:
            raise RefusedError(
                f"the export lists a file that no export has: {row.path[:80]}", "Nothing was changed. Export again."
            )
    for path in (*manifest.rows, *(f"{folder}/." for folder in manifest.empty_folders)):
        if any(above in manifest.rows for above in folders_above(path)):
            raise malformed("a path is both a file and a folder")
    for folder in manifest.empty_folders:
        if folder.partition("/")[0] not in FOLDERS:
            raise malformed("it lists a folder that no export has")
    for name in (CONFIG, ROSTER, RECORDS, HASHES):
        if name not in manifest.rows:
            raise malformed(f"{name} is missing")
    if manifest.latest and not any(path.startswith(f"{RETRIEVED}/{manifest.latest}/") for path in manifest.rows):
        raise malformed("latest is a retrieval that it does not have")
    return manifest


def checked_json(data: bytes, name: str) -> Any:
    """What a JSON text holds; InputError for anything that is not JSON, and for a key that is there twice."""
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_no_number)
    except (ValueError, RecursionError):
        raise InputError(f"{name} of the export cannot be read", _DAMAGED) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(_text: str) -> NoReturn:
    raise ValueError("an export has whole numbers only")


def _row(given: object) -> Row:
    if not isinstance(given, dict):
        raise malformed("a file is not an object")
    sha256, executable = given.get("sha256"), given.get("executable")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise malformed("a sha256 is not one")
    if not isinstance(executable, bool):
        raise malformed("executable is not true or false")
    size, mtime_ns = given.get("size"), given.get("mtime_ns")
    if type(size) is not int or not 0 <= size < _LARGEST_NUMBER:
        raise malformed("a size is not a number of bytes")
    if type(mtime_ns) is not int or not -_LARGEST_NUMBER <= mtime_ns < _LARGEST_NUMBER:
        raise malformed("mtime_ns is not a time")
    return Row(_path(given.get("path")), size, sha256, mtime_ns, executable)


def _is_time(text: str) -> bool:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return False
    return found.tzinfo is not None and 2000 < found.year < 3000


def _path(given: object) -> str:
    if not isinstance(given, str) or not given:
        raise malformed("a path is not a text")
    try:
        files.parts_of(given, max_depth=MAX_DEPTH)
    except HostError as error:
        raise RefusedError(
            f"the export lists a path that leads out of it: {error.problem}", "Nothing was changed. Do not use it."
        ) from None
    return given


def malformed(what: str) -> InputError:
    return InputError(f"the export's {NAME} is malformed: {what}", _DAMAGED)
