"""Fill `submitted` of the teacher's course with what was in time. A child that is the teacher runs this.

It reads what a retrieval has just published, which is data of the student's: nothing is parsed but the manifest, which
is the teacher's own. Notebooks are told apart by ids that are looked for in their bytes (found_again.py); every file
goes on as it is, whatever it holds.

What is known of a submission is in `.nblauncher/ASSIGNMENT/STUDENT.submission.json`:

    {"version": 1, "timestamp": "2026-11-27T16:00:00.123456+00:00", "due": ..., "due_class": ..., "late_seconds": 0.0,
     "retrieval": "2026-11-28T090000+0100-ps1", "digest": of the files by name,
     "renamed": {"problem1.ipynb": "sub/mine.ipynb"}, "others": {"problem1.ipynb": ["old.ipynb"]}, "missing": []}

`due` is the student's own moment, `due_class` everybody's; null without a deadline.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.exchange.retrieve import assignment
from nblauncher.exchange.retrieve.assignment import HandedIn
from nblauncher.exchange.retrieve.tree import Tree, sync
from nblauncher.grading import found_again
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.found_again import Candidate, Found, Original
from nblauncher.grading.submission_folder import Content, Place, digest
from nblauncher.system import files, root_files

NEW, REPLACED, UNCHANGED, NOTHING, KEPT, FAILED = "new", "replaced", "unchanged", "nothing", "kept", "failed"

_STAMP = "%Y-%m-%d %H:%M:%S.%f UTC"
"""nbgrader's."""
_MOST_NOTEBOOKS = 200
_MOST_LOOKED_AT = 300
_MOST_BYTES = 100_000_000
"""Of one student's notebooks, in which ids are looked for."""
_LARGEST_RECORD = 4 << 20
_MOST_SAID = 10
_LONGEST_SAID = 200


@dataclass(frozen=True, slots=True)
class Student:
    """`given`: sha256 and inode of each notebook that was handed out, by name. `due` and `due_class` are aware."""

    username: str
    given: Mapping[str, tuple[str, int]]
    due: datetime | None = None
    due_class: datetime | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """`folder` is the material's, `retrieval` what was published of it."""

    course: Path
    folder: str
    retrieval: Path
    students: tuple[Student, ...]

    @property
    def assignment(self) -> str:
        return self.folder.replace("/", "-")


def fill(order: Order) -> dict[str, dict[str, Any]]:
    """Bring each student's work into its place; answers by username with `state`, and a `problem` if that is FAILED.

    What one student's submission cannot have costs the others nothing. OSError when the course itself is the trouble.
    """
    course = CourseFolder(order.course)
    records = course.records(order.assignment)
    records.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(records, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (order.course / "submitted").mkdir(mode=0o700, exist_ok=True)
        return _fill(_Run(order, records, _originals(course, order.assignment)), lock)
    finally:
        os.close(lock)


def _fill(run: _Run, folder: int) -> dict[str, dict[str, Any]]:
    """All is staged first, so that one sync of the `folder`'s file system is enough."""
    answers: dict[str, dict[str, Any]] = {}
    staged: list[_Submission] = []
    for student in run.order.students:
        try:
            found = run.look(student)
            if isinstance(found, _Submission):
                staged.append(found)
            else:
                answers[student.username] = found
        except (OSError, HostError) as error:
            answers[student.username] = _failed(error)
    if any(one.ready for one in staged):
        sync(folder)
    for one in staged:
        try:
            answers[one.student.username] = run.place(one)
        except (OSError, HostError) as error:
            answers[one.student.username] = _failed(error)
    return answers


@dataclass(slots=True)
class _Submission:
    """One student's, before it takes its place. `ready` is the staged folder, '' where the files are there already."""

    student: Student
    place: Place
    before: Content | None
    record: dict[str, Any]
    found: Found
    timestamp: datetime
    digest: str
    ready: str = ""
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class _Run:
    order: Order
    records: Path
    originals: Mapping[str, Original]

    def look(self, student: Student) -> dict[str, Any] | _Submission:
        """Stage what is new; the answer already where there is nothing to put into the place."""
        retrieval = os.open(self.order.retrieval, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handed = assignment.handed_in(retrieval, student.username, self.order.folder)
        finally:
            os.close(retrieval)
        if handed is None:
            return self._nothing(student)
        try:
            wanted = _without_checkpoints(handed) if handed.has_work else {}
            return self._stage(student, handed, wanted) if wanted else self._nothing(student)
        finally:
            os.close(handed.folder)

    def place(self, one: _Submission) -> dict[str, Any]:
        """Give it its place, then write down what is known of it."""
        state, kept = UNCHANGED, ""
        if one.ready:
            state = REPLACED if one.before else NEW
            kept = one.place.take(one.ready, is_kept=one.is_kept)
        elif one.before and (there := moment(one.before.timestamp)) and one.timestamp < there:
            one.place.restamp(one.timestamp.strftime(_STAMP))
        os.close(one.place.folder)
        self._write_record(one.student, _record(self.order, one))
        return {
            "state": state,
            "time": one.timestamp.astimezone().isoformat(),
            "renamed": dict(_said(one.found.renamed.items())),
            "others": [path for _name, path in _said(_pairs(one.found.others))],
            "missing": [name for name, _path in _said((name, "") for name in one.found.missing)],
            "kept": f"submitted/{one.student.username}/{kept}" if kept else None,
        }

    def _stage(self, student: Student, handed: HandedIn, wanted: Mapping[str, str]) -> _Submission:
        found = self._match(student, handed, wanted)
        names = names_of(wanted, found.renamed)
        contents = {name: str(handed.files[path]["sha256"]) for path, name in names.items()}
        new = digest(contents)
        record = self._read_record(student)
        place = Place(_opened(self.order.course / "submitted", student.username), self.order.assignment)
        place.tidy([new, str(record.get("digest", ""))])
        before = place.content()
        timestamp = moment(handed.timestamp)
        if timestamp is None:
            raise HostError(f"the retrieval has no time stamp of {student.username}")
        one = _Submission(student, place, before, record, found, timestamp, new)
        if before and _is_same(before, record, new):
            one.timestamp = min(timestamp, moment(before.timestamp) or timestamp)
            return one
        copied = {name: (path, contents[name]) for path, name in names.items()}
        one.ready = place.stage(handed.folder, copied, handed.timestamp)
        one.is_kept = before is not None and before.digest != record.get("digest")
        return one

    def _nothing(self, student: Student) -> dict[str, Any]:
        """Nothing in time. A submission of before stays, with the moment that holds now."""
        folder = self.order.course / "submitted" / student.username
        answer: dict[str, Any] = {"time": None, "renamed": {}, "others": [], "missing": [], "kept": None}
        if not (folder / self.order.assignment).is_dir():
            return {"state": NOTHING, **answer}
        record = self._read_record(student)
        if time := _time(record.get("timestamp")):
            self._write_record(student, {**record, **_due(student, time)})
        return {"state": KEPT, **answer, "time": time.astimezone().isoformat() if time else None}

    def _match(self, student: Student, handed: HandedIn, wanted: Mapping[str, str]) -> Found:
        """Which notebooks are which. One that has its name is not even read."""
        originals = {
            name: Original(one.grade_ids, one.cell_ids, *student.given.get(name, ("", 0)))
            for name, one in self.originals.items()
        }
        given = {part for one in originals.values() for part in (one.sha256, one.inode) if part}
        tree = Tree(os.dup(handed.folder))
        left = _MOST_BYTES
        candidates = []
        try:
            for path in wanted:
                row = handed.files[path]
                mtime, _ctime, inode, _stored = row["stamp"]
                may_be = found_again.may_be_a_notebook(path) or not {row["sha256"], inode}.isdisjoint(given)
                if path in originals:
                    candidates.append(Candidate(path))
                elif may_be and len(candidates) < _MOST_LOOKED_AT:
                    ids: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
                    if row["size"] <= min(left, found_again.LARGEST):
                        left -= row["size"]
                        ids = found_again.ids_in(_read(tree, path), originals.values())
                    candidates.append(Candidate(path, row["sha256"], inode, mtime, *ids))
        finally:
            tree.close()
        return found_again.match(originals, candidates)

    def _read_record(self, student: Student) -> dict[str, Any]:
        """Empty when there is none, or it is not ours."""
        try:
            with (self.records / f"{student.username}.submission.json").open("rb") as file:
                found = json.loads(file.read(_LARGEST_RECORD))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) and found.get("version") == 1 else {}

    def _write_record(self, student: Student, record: Mapping[str, Any]) -> None:
        root_files.replace(self.records / f"{student.username}.submission.json", json.dumps(record), durable=True)


def names_of(paths: Mapping[str, str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Where each file goes. `paths`: the student's path → the path beside our time stamp; `renamed`: as in Found.

    A folder that has the name of a notebook makes room for it.
    """
    tops = {name.partition("/")[0] for name in paths.values()}
    own = {path: name for name, path in renamed.items()}
    places: dict[str, str] = {}
    for path, name in paths.items():
        top, slash, rest = name.partition("/")
        if path in own:
            places[path] = own[path]
        elif slash and top in renamed:
            places[path] = f"{_free(top, tops)}/{rest}"
        else:
            places[path] = name
    return places


def moment(timestamp: str) -> datetime | None:
    """Of nbgrader's time stamp; None for anything else."""
    try:
        return datetime.strptime(timestamp, _STAMP).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _originals(course: CourseFolder, name: str) -> dict[str, Original]:
    """The assignment's notebooks, as students were handed them; before that as they were written."""
    for folder in (course.release(name), course.source(name)):
        try:
            found = sorted(folder.glob(f"*{found_again.NOTEBOOK}"))[:_MOST_NOTEBOOKS]
            if found:
                return {file.name: _original(file) for file in found if file.is_file()}
        except OSError:
            continue
    return {}


def _original(file: Path) -> Original:
    with file.open("rb") as stream:
        return found_again.original(stream.read(found_again.LARGEST))


def _without_checkpoints(handed: HandedIn) -> dict[str, str]:
    """Jupyter's copies are no work: another one is not another submission."""
    return {path: name for path, name in handed.names.items() if found_again.CHECKPOINTS not in path.split("/")}


def _opened(submitted: Path, username: str) -> int:
    above = files.open_folder(submitted)
    try:
        if not os.path.lexists(submitted / username):
            os.mkdir(username, 0o700, dir_fd=above)
        return files.open_folder(username, above)
    finally:
        os.close(above)


def _read(tree: Tree, path: str) -> bytes:
    descriptor, status = tree.open(files.parts_of(path))
    try:
        return b"".join(files.chunks(descriptor, status.st_size))
    finally:
        os.close(descriptor)


def _is_same(before: Content, record: Mapping[str, Any], new: str) -> bool:
    """Whether what is there is this work, also if the teacher edited it since: then the time stamp is still ours."""
    if before.digest == new:
        return True
    there = moment(before.timestamp)
    return record.get("digest") == new and there is not None and there == _time(record.get("timestamp"))


def _record(order: Order, one: _Submission) -> dict[str, Any]:
    was_there = not one.ready and one.record.get("digest") == one.digest
    return {
        "version": 1,
        "timestamp": one.timestamp.isoformat(),
        **_due(one.student, one.timestamp),
        "retrieval": one.record.get("retrieval") if was_there else order.retrieval.name,
        "digest": one.digest,
        "renamed": dict(one.found.renamed),
        "others": {name: list(paths) for name, paths in one.found.others.items()},
        "missing": list(one.found.missing),
    }


def _due(student: Student, timestamp: datetime) -> dict[str, Any]:
    late = (timestamp - student.due).total_seconds() if student.due else 0.0
    return {
        "due": student.due.isoformat() if student.due else None,
        "due_class": student.due_class.isoformat() if student.due_class else None,
        "late_seconds": max(0.0, late),
    }


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo else None


def _pairs(others: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    for name, paths in others.items():
        for path in paths:
            yield name, path


def _said(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """For the report, in which no student may fill everybody's answer: the first ones, cut off. The record has all."""
    return [(name[:_LONGEST_SAID], path[:_LONGEST_SAID]) for name, path in list(pairs)[:_MOST_SAID]]


def _free(name: str, taken: set[str]) -> str:
    stem, dot, ending = name.rpartition(".")
    number = 1
    while (new := f"{stem or ending} (the student's{f' {number}' if number > 1 else ''}){dot}{ending}") in taken:
        number += 1
    return new


def _failed(error: OSError | HostError) -> dict[str, Any]:
    words = error.problem if isinstance(error, HostError) else (os.strerror(error.errno or 0).lower() or str(error))
    return {"state": FAILED, "problem": words}
