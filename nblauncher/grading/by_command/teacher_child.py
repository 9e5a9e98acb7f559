"""The teacher's side of grading by a program: the submissions' digests, their files, and what is remembered of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, InputError
from nblauncher.grading import parcels
from nblauncher.grading.by_command import results
from nblauncher.grading.by_command.results import NoResult
from nblauncher.grading.course_folder import RECORDS, CourseFolder
from nblauncher.grading.teacher_side import handed_in, submissions
from nblauncher.grading.teacher_side.submissions import Given, Submission

_MOST_FEEDBACK = 100_000
_PAGE = "feedback.txt"


def survey(root: Path, assignment: str, usernames: Sequence[str], environment: str) -> dict[str, Any]:
    """Who handed in what, and what is remembered. The teacher's own files are those of source/ASSIGNMENT."""
    folder = CourseFolder(root)
    own = _own(folder, assignment)
    digest = _digest(own.digest() if own else "", environment)
    students: dict[str, dict[str, Any]] = {}
    for name in usernames:
        known = submissions.record(folder.records(assignment) / f"{name}.json") or None
        place = folder.submitted(name, assignment)
        if not os.path.lexists(place):
            students[name] = {"is_there": False, "record": known}
            continue
        try:
            content = submissions.digest_of(place)
        except (HostError, OSError):  # grading it says why
            students[name] = {"is_there": True, "digest": "", "record": known}
            continue
        noted = handed_in.noted(folder.records(assignment), name)
        whole = _digest(content, repr(noted), digest)
        students[name] = {"is_there": True, "digest": whole, "record": known}
    if own:
        own.close()
    return {"students": students}


def deliver(root: Path, assignment: str, username: str, output: int, most: int) -> list[str]:
    """Send the submission's files, the teacher's own in place of those of the same path; what was left out."""
    folder = CourseFolder(root)
    own, given = _own(folder, assignment), Submission(folder.submitted(username, assignment))
    first = {} if own is None else {one.path: one for one in own.files}
    sizes = [one.size for one in given.files if one.path not in first] + [one.size for one in first.values()]
    if sum(sizes) > most:
        raise HostError(f"its files have {sum(sizes) / 1e6:.0f} MB, more than grading.disk allows")
    for one in given.files:
        if one.path not in first:
            _send(given, one, output)
    for one in first.values():
        if own is not None:
            _send(own, one, output)
    return given.left_out


def _send(source: Submission, one: Given, output: int) -> None:
    for part in source.parts(one, one.size):
        parcels.put(output, "part", part, one.path)
    parcels.put(output, "file", b"", one.path)


def remember(root: Path, assignment: str, username: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Judge what the program said, as data; the record that is written, with the feedback page beside it."""
    folder = CourseFolder(root)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record: dict[str, Any] = {"version": 1, "digest": said["digest"], "graded_at": now, "flags": [], "notebooks": {}}
    noted = handed_in.noted(folder.records(assignment), username)
    record |= {"warnings": [*noted.warnings, *said["warnings"]], "needs_manual_grade": False}
    record["late_seconds"] = noted.late_seconds
    data = said["data"]
    try:
        if said["why"]:
            raise NoResult(said["why"])
        given = None if data is None else data.encode("utf-8", "surrogateescape")
        found = results.parsed(given, said["exit_code"], said["output"])
        record |= {"score": found.score, "max_score": found.max_score, "error": None}
        _write(folder.feedback(username, assignment) / _PAGE, found.feedback[:_MOST_FEEDBACK])
    except NoResult as error:
        record |= {"score": None, "max_score": None, "error": str(error)[:1000], "needs_manual_grade": True}
    _write(folder.records(assignment) / f"{username}.json", json.dumps(record))
    _write(folder.records(assignment) / f"{username}.log", said["output"])
    return record


def _own(folder: CourseFolder, assignment: str) -> Submission | None:
    """The teacher's files, tests and data; they may be none."""
    return Submission(folder.source(assignment)) if folder.source(assignment).is_dir() else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as target:
        target.write(text)
        target.flush()
        os.fsync(target.fileno())
    new.replace(file)


def grades(root: Path, assignment: str) -> dict[str, Any]:
    """What the records say, in the form of teacher_side/grades.py; '' for all assignments. InputError when there is
    none.
    """
    records = root / RECORDS
    names = [assignment] if assignment else sorted(os.listdir(records)) if records.is_dir() else []
    rows = [row for name in names for row in _rows(CourseFolder(root), name)]
    if not rows:
        raise InputError(f"nothing of {assignment or 'this course'} was graded yet", "`nblauncher grade` grades it.")
    most: dict[str, float] = {}
    for row in rows:
        most[row["assignment"]] = max(most.get(row["assignment"], 0.0), row["max_score"])
    students = sorted({row["student"] for row in rows})
    return {
        "assignments": [{"name": name, "max_score": points} for name, points in most.items()],
        "students": [{"id": name, "name": "", "email": ""} for name in students],
        "grades": rows,
    }


def _rows(folder: CourseFolder, assignment: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.records(assignment).glob("*.json")):
        record = submissions.record(file)
        if record.get("score") is not None and not file.name.endswith(".submission.json"):
            points = {name: float(record[name] or 0.0) for name in ("score", "max_score", "late_seconds")}
            none = dict.fromkeys(("manual_score", "extra_credit"))
            more = {"late_penalty": 0.0, "needs_manual_grade": bool(record.get("needs_manual_grade"))}
            yield {"assignment": assignment, "student": file.stem, **points, **none, **more}


def pages(root: Path, assignment: str, usernames: Sequence[str]) -> dict[str, Any]:
    """The pages that are there, in the form of teacher_side/feedback.py."""
    folder = CourseFolder(root)
    rows = []
    for name in usernames:
        record = submissions.record(folder.records(assignment) / f"{name}.json")
        page = folder.feedback(name, assignment) / _PAGE
        if record.get("score") is not None and page.is_file():
            data = page.read_bytes()
            files = [[_PAGE, len(data), hashlib.sha256(data).hexdigest()]]
            rows.append({"student": name, "files": files, "error": "", "waiting": False})
    return {"students": rows}
