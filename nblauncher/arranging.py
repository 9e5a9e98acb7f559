"""An assignment in the teacher's store: what was there in time, what came later, laid out for people or for nbgrader.

Both functions run as the teacher, in a child, on what a retrieval has just put into a staging folder. nbgrader's layout
is `submitted/STUDENT/ASSIGNMENT/` with a `timestamp.txt`
(https://nbgrader.readthedocs.io/en/stable/user_guide/philosophy.html, "The philosophy of nbgrader").
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher import deletion, files, manifest
from nblauncher.errors import HostError
from nblauncher.model import Exclusion
from nblauncher.tree import Tree

PLAIN, NBGRADER = "plain", "nbgrader"
SUBMITTED, LATE = "submitted", "late"

_NOW = ".now"
_TIMESTAMP = "timestamp.txt"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One student's, in a staging folder. `captured` is the published folder of its deadline, '' for none."""

    target: Path
    staging: str
    username: str
    folder: str
    layout: str
    now: str
    """When this retrieval began, as nbgrader writes it."""
    captured: str = ""
    captured_at: str = ""


def arrange(one: Assignment) -> Mapping[str, Any]:
    """Lay out what `collect` has put into `STUDENT/work`; answers with what was handed in and whether it is late.

    What was captured is linked from the retrieval of its deadline; what stands in the home now comes beside it when it
    is something else. OSError; HostError when what was captured is gone.
    """
    store = os.open(one.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    staging = files.open_folder(one.staging, store)
    student = files.open_folder(one.username, staging)
    about = _manifest(student)
    now = {row["path"].removeprefix("work/"): row for row in about["files"]}
    then = _captured(store, one) if one.captured else None
    in_time = _rows(then, one) if then is not None else None
    is_late = in_time is not None and _contents(now) != _contents(in_time)
    if now:
        os.rename("work", _NOW, src_dir_fd=student, dst_dir_fd=student)
    base = staging if one.layout == NBGRADER else student
    rows = []
    if in_time is None:
        rows += _put(one, base, SUBMITTED, now, student, _NOW, one.now)
    else:
        where = files.join(f"{one.captured}/{one.username}/work", one.folder)
        rows += _put(one, base, SUBMITTED, in_time, store, where, one.captured_at)
        rows += _put(one, base, LATE, now if is_late else {}, student, _NOW, one.now)
    if now:
        deletion.delete_below(files.open_folder(_NOW, student))
        os.rmdir(_NOW, dir_fd=student)
    _write_manifest(student, {**about, "files": rows, "assignment": one.folder, "late": is_late})
    given = now if in_time is None else in_time
    return {
        "files": len(rows),
        "bytes": sum(row["size"] for row in rows),
        "handed_in": any(row["sent"] != row["sha256"] for row in given.values()),
        "late": is_late and any(row["sent"] != row["sha256"] for row in now.values()),
        "left_out": _left_out(then) if then else [],
    }


def _left_out(then: Mapping[str, Any]) -> list[list[Any]]:
    """What the capture lacks; what is incomplete comes first."""
    return manifest.worst(Exclusion(row["path"], row["reason"], row["incomplete"]) for row in then["exclusions"])


def _contents(rows: Mapping[str, Any]) -> dict[str, str]:
    return {path: row["sha256"] for path, row in rows.items()}


def _put(
    one: Assignment, base: int, layer: str, rows: Mapping[str, Any], folder: int, where: str, timestamp: str
) -> list[dict[str, Any]]:
    """Link these files, which are in `where` below `folder`, into their layer; what the manifest says about them."""
    if not rows:
        return []
    source, tree = Tree(files.open_below(folder, where)), Tree(os.dup(base))
    if one.layout == NBGRADER:
        prefix = f"{layer}/{one.username}/{one.folder.replace('/', '-')}"
        target = tree.create((*files.parts_of(prefix), _TIMESTAMP))
        os.write(target, f"{timestamp}\n".encode("ascii"))
        os.close(target)
    else:
        prefix = f"{'work' if layer == SUBMITTED else LATE}/{one.folder}"
    names = _names(rows) if one.layout == NBGRADER else {path: path for path in rows}
    for path, name in names.items():
        tree.link_from(source, files.parts_of(path), (*files.parts_of(prefix), *files.parts_of(name)))
    source.close()
    tree.close()
    return [{**row, "path": f"{prefix}/{names[path]}"} for path, row in rows.items()]


def _names(paths: Collection[str]) -> dict[str, str]:
    """Where each file goes beside our time stamp: a file or folder of the student's that has its name gets another, so
    that it neither passes for ours nor stops us.
    """
    taken = {path.partition("/")[0] for path in paths}
    words = (f"timestamp (the student's{f' {number}' if number > 1 else ''}).txt" for number in itertools.count(1))
    theirs = next(name for name in words if name not in taken)
    return {
        path: theirs + path.removeprefix(_TIMESTAMP) if path.partition("/")[0] == _TIMESTAMP else path for path in paths
    }


def _manifest(student: int) -> dict[str, Any]:
    descriptor, _status = files.open_file("manifest.json", student)
    with os.fdopen(descriptor, "rb") as file:
        found: dict[str, Any] = json.load(file)
    return found


def _captured(store: int, one: Assignment) -> dict[str, Any]:
    """The manifest of its deadline. HostError where that retrieval is gone: nobody is late for want of it."""
    try:
        return _manifest(files.open_below(store, f"{one.captured}/{one.username}"))
    except OSError as error:
        where = one.target / one.captured / one.username
        raise HostError(f"what was captured at the deadline is not in {where} any more", "Put it back.") from error


def _rows(about: Mapping[str, Any], one: Assignment) -> dict[str, Any]:
    """By path below the assignment's folder."""
    prefix = f"work/{one.folder}/"
    rows = {row["path"].removeprefix(prefix): row for row in about["files"] if row["path"].startswith(prefix)}
    marked = {row["path"] for row in about.get("deadline", {}).get("late_files", ()) if row["kept_as_of"] is None}
    return {path: row for path, row in rows.items() if path not in marked}


def _write_manifest(student: int, content: Mapping[str, Any]) -> None:
    descriptor = os.open("manifest.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=student)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(content, file)
    os.rename("manifest.new", "manifest.json", src_dir_fd=student, dst_dir_fd=student)
