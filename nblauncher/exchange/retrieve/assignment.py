"""An assignment in the teacher's store: what was there in time and what came later, laid out for people or nbgrader.

A child that is the teacher runs this, on what a retrieval has just put into a staging folder. nbgrader's layout
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

from nblauncher.errors import HostError
from nblauncher.exchange.retrieve import manifest
from nblauncher.exchange.retrieve.tree import Tree
from nblauncher.exchange.rows import Row
from nblauncher.model import Exclusion
from nblauncher.system import deletion, files

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


def arrange(order: Assignment) -> Mapping[str, Any]:
    """Lay out what `collect` put into `STUDENT/work`; answers with what was handed in and whether it is late.

    What was captured is linked from its deadline's retrieval; the home's present state is put beside it if it differs.
    OSError; HostError when what was captured is gone.
    """
    store = os.open(order.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    staging = files.open_folder(order.staging, store)
    student = files.open_folder(order.username, staging)
    about = manifest_of(student)
    now = {row["path"].removeprefix("work/"): row for row in about["files"]}
    then = _captured(store, order) if order.captured else None
    in_time = _rows(then, order) if then is not None else None
    is_late = in_time is not None and _contents(now) != _contents(in_time)
    if now:
        os.rename("work", _NOW, src_dir_fd=student, dst_dir_fd=student)
    base = staging if order.layout == NBGRADER else student
    rows = []
    if in_time is None:
        rows += _put(order, base, SUBMITTED, now, student, _NOW, order.now)
    else:
        where = files.join(f"{order.captured}/{order.username}/work", order.folder)
        rows += _put(order, base, SUBMITTED, in_time, store, where, order.captured_at)
        rows += _put(order, base, LATE, now if is_late else {}, student, _NOW, order.now)
    if now:
        deletion.delete_below(files.open_folder(_NOW, student))
        os.rmdir(_NOW, dir_fd=student)
    stamp = order.now if in_time is None else order.captured_at
    _write_manifest(student, {**about, "files": rows, "assignment": order.folder, "late": is_late, "timestamp": stamp})
    given = now if in_time is None else in_time
    return {
        "files": len(rows),
        "bytes": sum(row["size"] for row in rows),
        "handed_in": any(row["sent"] != row["sha256"] for row in given.values()),
        "late": is_late and any(row["sent"] != row["sha256"] for row in now.values()),
        "left_out": _left_out(then) if then else [],
    }


@dataclass(frozen=True, slots=True)
class HandedIn:
    """What a student had in time, in a published retrieval: rows of the manifest, by path below the open `folder`."""

    folder: int
    files: Mapping[str, Row]
    timestamp: str
    """As nbgrader writes it."""

    @property
    def has_work(self) -> bool:
        return any(row["sent"] != row["sha256"] for row in self.files.values())

    @property
    def names(self) -> Mapping[str, str]:
        """Where each file goes beside a time stamp of ours."""
        return _names(self.files)


def handed_in(retrieval: int, username: str, folder: str) -> HandedIn | None:
    """Read what `arrange` laid out, in whichever layout; None when nothing of the student was there in time.

    Runs as the teacher. OSError when the retrieval has no such student.
    """
    student = files.open_folder(username, retrieval)
    about = manifest_of(student)
    plain, nbgrader = f"work/{folder}", f"{SUBMITTED}/{username}/{folder.replace('/', '-')}"
    for base, where in ((student, plain), (retrieval, nbgrader)):
        rows = {
            row["path"].removeprefix(f"{where}/"): row for row in about["files"] if row["path"].startswith(f"{where}/")
        }
        if rows:
            return HandedIn(files.open_below(base, where), rows, about["timestamp"])
    return None


def _left_out(then: Mapping[str, Any]) -> list[Row]:
    """What the capture lacks, incomplete files first."""
    return manifest.worst(Exclusion(row["path"], row["reason"], row["incomplete"]) for row in then["exclusions"])


def _contents(rows: Mapping[str, Any]) -> dict[str, str]:
    return {path: row["sha256"] for path, row in rows.items()}


def _put(
    order: Assignment, base: int, layer: str, rows: Mapping[str, Any], folder: int, where: str, timestamp: str
) -> list[dict[str, Any]]:
    """Link these files, in `where` below `folder`, into their layer; their rows in the manifest."""
    if not rows:
        return []
    source, tree = Tree(files.open_below(folder, where)), Tree(os.dup(base))
    if order.layout == NBGRADER:
        prefix = f"{layer}/{order.username}/{order.folder.replace('/', '-')}"
        target = tree.create((*files.parts_of(prefix), _TIMESTAMP))
        os.write(target, f"{timestamp}\n".encode("ascii"))
        os.close(target)
    else:
        prefix = f"{'work' if layer == SUBMITTED else LATE}/{order.folder}"
    names = _names(rows) if order.layout == NBGRADER else {path: path for path in rows}
    for path, name in names.items():
        tree.link_from(source, files.parts_of(path), (*files.parts_of(prefix), *files.parts_of(name)))
    source.close()
    tree.close()
    return [{**row, "path": f"{prefix}/{names[path]}"} for path, row in rows.items()]


def _names(paths: Collection[str]) -> dict[str, str]:
    """Where each file goes beside our time stamp. A student's file or folder of that name is renamed, so that it
    neither passes for ours nor blocks us.
    """
    taken = {path.partition("/")[0] for path in paths}
    words = (f"timestamp (the student's{f' {number}' if number > 1 else ''}).txt" for number in itertools.count(1))
    theirs = next(name for name in words if name not in taken)
    return {
        path: theirs + path.removeprefix(_TIMESTAMP) if path.partition("/")[0] == _TIMESTAMP else path for path in paths
    }


def manifest_of(student: int) -> dict[str, Any]:
    descriptor, _status = files.open_file("manifest.json", student)
    with os.fdopen(descriptor, "rb") as file:
        found: dict[str, Any] = json.load(file)
    return found


def _captured(store: int, order: Assignment) -> dict[str, Any]:
    """The manifest of its deadline. HostError when that retrieval is gone: without it nothing can be called late."""
    try:
        return manifest_of(files.open_below(store, f"{order.captured}/{order.username}"))
    except OSError as error:
        where = order.target / order.captured / order.username
        raise HostError(f"what was captured at the deadline is not in {where} any more", "Put it back.") from error


def _rows(about: Mapping[str, Any], order: Assignment) -> dict[str, Any]:
    """By path below the assignment's folder."""
    prefix = f"work/{order.folder}/"
    rows = {row["path"].removeprefix(prefix): row for row in about["files"] if row["path"].startswith(prefix)}
    marked = {row["path"] for row in about.get("deadline", {}).get("late_files", ()) if row["kept_as_of"] is None}
    return {path: row for path, row in rows.items() if path not in marked}


def _write_manifest(student: int, content: Mapping[str, Any]) -> None:
    descriptor = os.open("manifest.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=student)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(content, file)
    os.rename("manifest.new", "manifest.json", src_dir_fd=student, dst_dir_fd=student)
