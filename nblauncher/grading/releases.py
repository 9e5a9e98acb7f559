"""Whether an assignment's release must be generated again: its source compared with what it was generated from.

Run by: the teacher, with nblauncher's Python or with that of grading.requirements. Loads nothing of nbgrader.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nblauncher.grading.course_folder import CourseFolder
from nblauncher.model import LEFT_OUT
from nblauncher.system import files


@dataclass(frozen=True)
class Remembered:
    """What was generated last: sha256 over the files of both folders. And the due date that was set, ISO 8601."""

    source: str = ""
    release: str = ""
    due: str = ""


def look(course: str, assignment: str) -> dict[str, Any]:
    """What is there of the assignment. `is_stale`: the release is missing, or older than the source."""
    folder = CourseFolder(Path(course))
    source, release = folder.source(assignment), folder.release(assignment)
    before = recall(folder, assignment)
    has_source = source.is_dir()
    return {
        "has_source": has_source,
        "has_release": release.is_dir(),
        "is_stale": has_source and (not release.is_dir() or _is_stale(source, release, before)),
        "due": before.due,
        "others": sorted(_names(folder.source("")) | _names(folder.release(""))),
    }


def recall(folder: CourseFolder, assignment: str) -> Remembered:
    """Empty when it is missing or unreadable: then only times are compared."""
    try:
        listed = json.loads(_memory(folder).read_text("utf-8"))[assignment]
        return Remembered(**{key: str(listed[key]) for key in asdict(Remembered())})
    except (OSError, ValueError, KeyError, TypeError):
        return Remembered()


def remember(folder: CourseFolder, assignment: str, now: Remembered) -> None:
    file = _memory(folder)
    try:
        listed = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        listed = {}
    draft = file.with_name(f"{file.name}.new")
    draft.write_text(json.dumps({**listed, assignment: asdict(now)}, indent=1), "utf-8")
    draft.replace(file)


def digest(folder: Path) -> str:
    """Of names and contents below a folder, without what is never handed out."""
    found = hashlib.sha256()
    for file in sorted(_files(folder)):
        with file.open("rb") as stream:
            content = hashlib.sha256()
            while data := stream.read(files.CHUNK):
                content.update(data)
        found.update(f"{content.hexdigest()} {file.relative_to(folder)}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def _is_stale(source: Path, release: Path, before: Remembered) -> bool:
    """A release that we did not make, or that the teacher has changed since, is replaced only by a newer source."""
    if before.release and before.release == digest(release):
        return before.source != digest(source)
    return _newest(source) > _newest(release)


def _newest(folder: Path) -> int:
    return max((file.stat().st_mtime_ns for file in _files(folder)), default=0)


def _files(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield from (file for name in names if name not in LEFT_OUT and (file := Path(above, name)).is_file())


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()


def _memory(folder: CourseFolder) -> Path:
    return folder.root / ".nblauncher" / "released.json"
