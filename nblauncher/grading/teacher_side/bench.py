"""One submission on the teacher's side: hand it to the judge and to the kernel's folder, and take the result back.

A forked child does it as the teacher, for one submission after the other. Nothing of a student's is executed or
imported here: the notebooks that come back are JSON, bounded, and only their cells that the gradebook knows count.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import InvalidEntry, MissingEntry
from nbgrader.preprocessors import AssignLatePenalties, CheckCellMetadata, SaveAutoGrades
from nbgrader.utils import parse_utc
from sqlalchemy.exc import OperationalError

from nblauncher.errors import HostError, NblauncherError
from nblauncher.grading import parcels, records
from nblauncher.grading.course_folder import TIMESTAMP, CourseFolder
from nblauncher.grading.teacher_side import course, found_rows, handed_in
from nblauncher.grading.teacher_side.graded_course import Course
from nblauncher.grading.teacher_side.submissions import MOST_NOTEBOOK, Submission
from nblauncher.printable import printable
from nblauncher.system import wire, workers

_MOST_RETURNED = 100 << 20
_MOST_TRACE = 4000


@dataclass
class _Result:
    """What came back, by notebook."""

    texts: dict[str, str] = field(default_factory=dict)
    about: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    why: str = ""
    """Why there is no result."""


class _RootIsGone(Exception):
    """The command was killed: what became of this submission says nothing about it, and is not remembered."""


def run(connection: socket.socket, order: Mapping[str, Any]) -> int:
    """Take one submission after the other from root's process; `order` is what they have in common. With each come the
    socket on which it is answered, that to the judge, and the pipe to the kernel's folder.
    """
    try:
        there = Course(Path(order["root"]))
    except (NblauncherError, OSError) as error:
        workers.write_frame(connection.fileno(), _problem(error, order))
        return 1
    workers.write_frame(connection.fileno(), {"ready": True})
    reader = wire.Reader()
    while True:
        while (message := reader.next()) is None:
            if not reader.feed(connection):
                return 0
        given, (root, judge, folder) = message
        try:
            answer = _answer({**order, **given["submission"]}, there, root, judge, folder)
            workers.write_frame(root, answer)
        except _RootIsGone:
            return 1
        finally:
            wire.close_all([root, judge])
        if "trace" in answer:
            return 1
        there.rest()


def _answer(order: Mapping[str, Any], there: Course, root: int, judge: int, folder: int) -> Mapping[str, Any]:
    bench = _Bench(order, there, root, judge, folder)
    try:
        return bench.carry_out()
    except OperationalError as error:
        return _problem(course.unusable(error), order)
    except (NblauncherError, OSError) as error:
        return _problem(error, order)
    except _RootIsGone:
        raise
    except Exception as error:  # this process's boundary: root logs it, and the next submission gets another child
        words = f"the teacher's child failed: {type(error).__name__}: {error}"
        return {"problem": words[:_MOST_TRACE], "trace": traceback.format_exc()[-_MOST_TRACE:]}
    finally:
        bench.close_folder()


def _problem(error: NblauncherError | OSError, order: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(error, NblauncherError):
        return {"problem": error.problem}
    return {"problem": f"{error.strerror or error} ({error.filename or order['root']})"}


def rehearse(root: Path, student: str, assignment: str, texts: dict[str, str]) -> None:
    """Save a result, in a process that the teacher's children are forked from."""
    found_rows.install()
    order = {"root": str(root), "student": student, "assignment": assignment, "digest": "", "cells": {}}
    _Bench(order, Course(root), -1, -1, -1).save(_Result(texts))


class _Bench:
    def __init__(self, order: Mapping[str, Any], there: Course, root: int, judge: int, folder: int) -> None:
        self._order, self._course = order, there
        self._root, self._judge, self._folder = root, judge, folder
        self._student, self._assignment = order["student"], order["assignment"]
        self._records = CourseFolder(Path(order["root"])).records(self._assignment)
        self._noted = handed_in.noted(self._records, self._student)
        self._warnings: list[str] = [*self._noted.warnings]

    def carry_out(self) -> dict[str, Any]:
        submission = Submission(self._course.place("submitted", self._student, self._assignment))
        self._warnings += submission.left_out
        try:
            result = self._judged(submission)
            record = self._failure(result.why) if result.why else self._entered(submission, result)
            self._remember(record)
        finally:
            submission.close()
        return {"record": record}

    def close_folder(self) -> None:
        """The kernel's folder has all that it gets."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def save(self, result: _Result) -> None:
        submission = Submission(self._course.place("submitted", self._student, self._assignment))
        try:
            self._saved(submission, result)
        finally:
            submission.close()

    # The way there and back.

    def _judged(self, submission: Submission) -> _Result:
        unknown = sorted(set(submission.notebooks) - set(self._order["cells"]))
        self._warnings += [f"{name}.ipynb is not a notebook of the assignment" for name in unknown]
        names = [name for name in submission.notebooks if name not in unknown]
        try:
            if not names:
                raise HostError("it holds no notebook of the assignment")
            notebooks = {name: submission.read(submission.notebooks[name], MOST_NOTEBOOK) for name in names}
            self._deliver(submission)
        except HostError as error:
            self.close_folder()
            return _Result(why=error.problem)
        order = {name: self._order[name] for name in ("student", "assignment", "config", "cells", "kernelspecs")}
        order["kernel"] = {**self._order["kernels"], "environment": self._order["environment"]}
        try:
            parcels.put_json(self._judge, "order", {**order, **self._order["limits"]})
            for name, data in notebooks.items():
                parcels.put(self._judge, "notebook", data, name)
            parcels.put(self._judge, parcels.END)
        except OSError:  # it ended before it read all
            return _Result(why=self._last_words())
        return self._received(set(names))

    def _deliver(self, submission: Submission) -> None:
        """All files into the kernel's folder, and the assignment's data over them, as nbgrader does."""
        data = dict(self._course.data_files(self._assignment))
        given = [one for one in submission.files if not _gives_way(one.path, data)]
        size = sum(one.size for one in given) + sum(file.stat().st_size for file in data.values())
        if size > self._order["disk"]:
            raise HostError(f"its files have {size / 1e6:.0f} MB, more than grading.disk allows")
        try:
            for one in given:
                for part in submission.parts(one, one.size):
                    parcels.put(self._folder, "part", part, one.path)
                parcels.put(self._folder, "file", b"", one.path)
            for path, file in data.items():
                parcels.put(self._folder, "part", file.read_bytes(), path)
                parcels.put(self._folder, "file", b"", path)
        except BrokenPipeError:
            raise HostError(self._last_words()) from None
        self.close_folder()

    def _received(self, names: set[str]) -> _Result:
        result = _Result()
        left = _MOST_RETURNED
        try:
            while True:
                ready, _, _ = select.select([self._judge, self._root], [], [])
                if self._root in ready:
                    return _Result(why=self._last_words())
                try:
                    parcel = parcels.take_one(self._judge, most=left)
                except HostError as error:
                    return _Result(why=f"what its judge sent cannot be used: {error.problem}")
                if parcel is None:
                    return _Result(why=self._last_words())
                if parcel.kind == parcels.END:
                    break
                if parcel.kind == "broken":
                    lines = parcel.data.decode(errors="replace").strip().splitlines()
                    raise HostError(f"its judge failed: {lines[-1] if lines else 'without a word'}")
                left -= len(parcel.data)
                if parcel.kind == "graded" and parcel.name in names:
                    result.texts[parcel.name] = parcel.data.decode("utf-8", "replace")
                elif parcel.kind == "about":
                    about = parcel.json()
                    if isinstance(about, dict) and str(about.get("notebook")) in names:
                        result.about[str(about["notebook"])] = about
        except OSError:
            return _Result(why=self._last_words())
        errors = [f"{name}.ipynb: {about['error']}" for name, about in result.about.items() if about.get("error")]
        missing = sorted(names - set(result.texts) - {name for name, about in result.about.items() if "error" in about})
        if errors or missing:
            result.why = "; ".join([*errors, *(f"{name}.ipynb came back without a result" for name in missing)])
        return result

    def _last_words(self) -> str:
        """A process of this submission ended: root knows why, or is gone."""
        try:
            workers.write_frame(self._root, {"ended": True})
            frame = workers.read_frame(self._root)
        except OSError:
            frame = None
        if frame is None:
            raise _RootIsGone
        return str(frame.header.get("why"))

    # Into the gradebook.

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time: SQLite lets others wait for five seconds only."""
        self._records.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._records.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _entered(self, submission: Submission, result: _Result) -> dict[str, Any]:
        try:
            with self._alone():
                return self._saved(submission, result)
        except InvalidEntry as error:
            raise course.unusable(error) from error
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            # The judge has had nbgrader read the same notebook: it sent another one.
            return self._failure(f"what its judge sent cannot be entered: {type(error).__name__}: {error}")

    def _saved(self, submission: Submission, result: _Result) -> dict[str, Any]:
        notebooks = {name: nbformat.reads(text, as_version=4) for name, text in result.texts.items()}
        self._enter_submission(submission)
        for name, notebook in notebooks.items():
            self._enter_scores(name, notebook)
        self._publish(submission, result.texts)
        flags = [f"{name}: {words}" for name, about in result.about.items() for words in _listed(about, "flags")]
        ended = [f"{name}: {about['ended']}" for name, about in result.about.items() if about.get("ended")]
        return {**self._scores(), "warnings": [*self._warnings, *ended], "flags": flags, "error": None}

    def _enter_submission(self, submission: Submission) -> None:
        """As nbgrader's Autograde does, with the student's own moment."""
        about: dict[str, Any] = {}
        if written := submission.timestamp():
            try:
                about["timestamp"] = parse_utc(written)
            except (ValueError, OverflowError):
                raise HostError(f"{TIMESTAMP} does not hold a time: {printable(written)[:60]}") from None
        with self._course.gradebook() as gradebook:
            gradebook.update_or_create_student(self._student)
            found = gradebook.update_or_create_submission(self._assignment, self._student, **about)
            if (more := self._noted.extension) is not None:
                found.extension = timedelta(seconds=more) if more else None
            for notebook in gradebook.find_assignment(self._assignment).notebooks:
                if notebook.name not in submission.notebooks:
                    self._warnings.append(f"{notebook.name}.ipynb is missing")
                    one = gradebook.find_submission_notebook(notebook.name, self._assignment, self._student)
                    for grade in one.grades:
                        grade.auto_score, grade.needs_manual_grade = 0, False
            gradebook.db.commit()

    def _enter_scores(self, name: str, notebook: Any) -> None:
        about = {
            "student": self._student,
            "assignment": self._assignment,
            "notebook": name,
            "db_url": self._course.folder.db_url,
        }
        resources = {"unique_key": name, "nbgrader": about, "metadata": {}}
        for step in (SaveAutoGrades, AssignLatePenalties, CheckCellMetadata):
            try:
                notebook, resources = step(config=self._course.config)(notebook, resources)
            except MissingEntry as error:
                raise HostError(f"{name}.ipynb has a cell that the assignment does not have: {error}") from error

    def _publish(self, submission: Submission, texts: Mapping[str, str]) -> None:
        """autograded/STUDENT/ASSIGNMENT, whole or not at all."""
        place = self._course.place("autograded", self._student, self._assignment)
        place.parent.mkdir(parents=True, exist_ok=True)
        new, old = (place.with_name(f".{place.name}.{word}") for word in ("new", "old"))
        for left in (new, old):
            _delete(left)
        new.mkdir(mode=0o700)
        data = dict(self._course.data_files(self._assignment))
        for one in submission.files:
            if not _gives_way(one.path, data) and one.path not in {f"{name}.ipynb" for name in submission.notebooks}:
                _write(new / one.path, submission.parts(one, one.size))
        for path, file in data.items():
            _write(new / path, [file.read_bytes()])
        for name, text in texts.items():
            _write(new / f"{name}.ipynb", [text.encode("utf-8", "replace")])
        if place.exists():
            place.rename(old)
        new.rename(place)
        _delete(old)

    def _scores(self) -> dict[str, Any]:
        with self._course.gradebook() as gradebook:
            found = gradebook.find_submission(self._assignment, self._student)
            notebooks = {
                one.name: {
                    "score": float(one.score),
                    "max_score": float(one.max_score),
                    "needs_manual_grade": bool(one.needs_manual_grade),
                }
                for one in found.notebooks
            }
            return {
                **self._about(),
                "score": float(found.score),
                "max_score": float(found.max_score),
                "late_seconds": float(found.total_seconds_late),
                "needs_manual_grade": bool(found.needs_manual_grade),
                "notebooks": notebooks,
            }

    # What is remembered.

    def _about(self) -> dict[str, Any]:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return {"version": 1, "digest": self._order["digest"], "graded_at": now}

    def _failure(self, why: str) -> dict[str, Any]:
        unknown = dict.fromkeys(("score", "late_seconds"))
        more = {"max_score": self._order["max_score"], "needs_manual_grade": True, "notebooks": {}, "flags": []}
        return {**self._about(), **unknown, **more, "warnings": self._warnings, "error": why[: records.LONGEST_ERROR]}

    def _remember(self, record: dict[str, Any]) -> None:
        for key in ("warnings", "flags"):
            record[key] = [words[: records.LONGEST_REMARK] for words in record[key][: records.MOST_REMARKS]]
        self._records.mkdir(parents=True, exist_ok=True)
        new = self._records / f".{self._student}.json.new"
        new.unlink(missing_ok=True)
        with open(new, "x", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._records / f"{self._student}.json")


def _gives_way(path: str, data: Mapping[str, Path]) -> bool:
    """Whether a file of the assignment's data has this path, or one above or below it."""
    return path in data or any(one.startswith(f"{path}/") or path.startswith(f"{one}/") for one in data)


def _listed(about: Mapping[str, Any], key: str) -> list[str]:
    found = about.get(key)
    return [str(words) for words in found] if isinstance(found, list) else []


def _write(file: Path, parts: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "xb") as target:
        for part in parts:
            target.write(part)


def _delete(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder)
