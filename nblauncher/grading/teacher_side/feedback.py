"""nbgrader's feedback, rendered by nbgrader's own converter: one process for the class, and only what changed.

Runs as the teacher, in nbgrader's Python. What each student's pages were made of is remembered beside the other records
of the assignment, so that a killed run goes on and a second one has nothing to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbgrader
from nbgrader.api import BaseCell, Comment, Grade, Gradebook, SubmittedAssignment, SubmittedNotebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.converters import GenerateFeedback
from nbgrader.converters.base import NbGraderException

from nblauncher.errors import HostError
from nblauncher.grading.course_folder import CONFIG, CourseFolder
from nblauncher.grading.teacher_side import course, gradebook
from nblauncher.system import root_files

MEMORY = ".feedback.json"
"""{student: {"made_of": digest, "files": {name: [size, sha256]}}}"""

_LOCK = ".feedback.lock"
_FORMAT = 1
_SAVED_EVERY = 2.0
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class _Pages:
    """The feedback of one student: a page for each notebook."""

    student: str
    folder: Path
    notebooks: Sequence[Path]
    made_of: str
    is_waiting: bool
    """Whether a person must still grade some of it."""

    @property
    def files(self) -> dict[str, list[Any]]:
        """Size and sha256 of each page; empty when one is missing."""
        found = {}
        for notebook in self.notebooks:
            name = f"{notebook.stem}.html"
            try:
                data = (self.folder / name).read_bytes()
            except FileNotFoundError:
                return {}
            found[name] = [len(data), hashlib.sha256(data).hexdigest()]
        return found


def act(assignment: str, students: Sequence[str], patience: float = gradebook.PATIENCE) -> dict[str, Any]:
    """Render what changed of these students; `grading/feedback.py` reads the answer. Who is not graded is left out."""
    api = course.opened(os.getcwd())
    expected, graded = gradebook.read(api, lambda book: _graded(book, assignment), patience=patience)
    folders = CourseFolder(Path.cwd())
    pages = []
    for student in students:
        work = folders.autograded(student, assignment)
        notebooks = [file for name in expected if (file := work / f"{name}.ipynb").is_file()]
        if student in graded and notebooks:
            made_of = _digest(graded[student], notebooks)
            is_waiting = any(row[0] == Grade.__name__ and row[-1] for row in graded[student])
            pages.append(_Pages(student, folders.feedback(student, assignment), notebooks, made_of, is_waiting))
    if not pages:
        return {"students": []}
    with _remembered(folders.records(assignment)) as memory:
        converter = _Converter(api, assignment, memory, patience)
        converter.take(pages)
    return {"students": [_row(page, memory, converter.errors) for page in pages]}


def _row(page: _Pages, memory: _Memory, errors: Mapping[str, str]) -> dict[str, Any]:
    return {
        "student": page.student,
        "files": [] if page.student in errors else [[name, *facts] for name, facts in memory.files(page).items()],
        "error": errors.get(page.student, ""),
        "waiting": page.is_waiting,
    }


class _Memory:
    """What the pages of each student were made of."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._saved_at = time.monotonic()
        try:
            known = json.loads(file.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            known = {}
        self._known: dict[str, Any] = known if isinstance(known, dict) else {}

    def files(self, page: _Pages) -> dict[str, list[Any]]:
        """The pages that were made of exactly this and are still as they were; empty: they must be rendered."""
        known = self._known.get(page.student)
        if not isinstance(known, dict) or known.get("made_of") != page.made_of:
            return {}
        found = page.files
        return found if found == known.get("files") else {}

    def forget(self, page: _Pages) -> None:
        self._known.pop(page.student, None)

    def add(self, page: _Pages) -> None:
        self._known[page.student] = {"made_of": page.made_of, "files": page.files}
        if time.monotonic() - self._saved_at > _SAVED_EVERY:
            self.save()

    def save(self) -> None:
        root_files.replace(self._file, json.dumps(self._known))
        self._saved_at = time.monotonic()


@contextlib.contextmanager
def _remembered(records: Path) -> Iterator[_Memory]:
    """The memory, for one run at a time; saved in any case. HostError while another run renders."""
    records.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (records / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"another `nblauncher feedback {records.name}` renders at this moment", "Wait until it is done."
            ) from None
        memory = _Memory(records / MEMORY)
        try:
            yield memory
        finally:
            memory.save()


class _Converter(GenerateFeedback):
    """nbgrader's, with one exporter for all students. A student whose pages cannot be made does not stop the others."""

    def __init__(self, api: NbGraderAPI, assignment: str, memory: _Memory, patience: float) -> None:
        super().__init__(coursedir=api.coursedir, parent=api)
        self.force = True  # what was rendered before is replaced
        self.errors: dict[str, str] = {}
        self._assignment = assignment
        self._memory = memory
        self._patience = patience
        self._pages: list[_Pages] = []
        self._why: Exception | None = None

    def take(self, pages: Sequence[_Pages]) -> None:
        self._pages = [page for page in pages if not self._memory.files(page)]
        if self._pages:
            self.start()

    def init_notebooks(self) -> None:
        """`convert_notebooks` says which."""

    def convert_notebooks(self) -> None:
        for page in self._pages:
            self._memory.forget(page)
            self._why = None
            try:
                self._convert(page)
            except NbGraderException as error:
                self.errors[page.student] = _words(self._why or error)
            else:
                self._memory.add(page)

    def convert_single_notebook(self, notebook_filename: str) -> None:
        """Remember what the converter only logs."""
        try:
            super().convert_single_notebook(notebook_filename)
        except Exception as error:
            self._why = error
            raise

    def _convert(self, page: _Pages) -> None:
        """HostError when the gradebook stays locked: that would fail everybody."""
        source = self._format_source(self._assignment, page.student)
        deadline = time.monotonic() + self._patience
        while True:
            self.assignments = {source: [str(file) for file in page.notebooks]}
            try:
                super().convert_notebooks()
                return
            except NbGraderException:
                if not gradebook.is_locked(self._why):
                    raise
                if time.monotonic() > deadline:
                    raise course.unusable(self._why) from self._why
            time.sleep(_PAUSE)


def _words(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300]


def _graded(book: Gradebook, name: str) -> tuple[list[str], dict[str, list[Any]]]:
    """The notebooks of the assignment; and of each student with a submission all that a page shows of the gradebook."""
    assignment = gradebook.find_assignment(book, name)
    submitted = book.db.query(SubmittedAssignment).filter(SubmittedAssignment.assignment_id == assignment.id)
    found: dict[str, list[Any]] = {one.student_id: [] for one in submitted}
    for kind, columns in (
        (Grade, (Grade.auto_score, Grade.manual_score, Grade.extra_credit, Grade.needs_manual_grade)),
        (Comment, (Comment.auto_comment, Comment.manual_comment)),
    ):
        query = (
            book.db.query(SubmittedAssignment.student_id, BaseCell.name, SubmittedNotebook.notebook_id, *columns)
            .join(SubmittedNotebook, SubmittedNotebook.assignment_id == SubmittedAssignment.id)
            .join(kind, kind.notebook_id == SubmittedNotebook.id)
            .join(BaseCell, BaseCell.id == kind.cell_id)
            .filter(SubmittedAssignment.assignment_id == assignment.id)
        )
        for student, *rest in query:
            found[student].append([kind.__name__, *rest])
    penalties = (
        book.db.query(SubmittedAssignment.student_id, SubmittedNotebook.notebook_id)
        .add_columns(SubmittedNotebook.late_submission_penalty)
        .join(SubmittedNotebook, SubmittedNotebook.assignment_id == SubmittedAssignment.id)
        .filter(SubmittedAssignment.assignment_id == assignment.id)
    )
    for student, *rest in penalties:
        found[student].append(["penalty", *rest])
    return sorted(str(one.name) for one in assignment.notebooks), found


def _digest(shown: Sequence[Any], notebooks: Sequence[Path]) -> str:
    """Of everything that pages are made of: gradebook, notebooks, nbgrader and its config."""
    config = Path(CONFIG).read_bytes() if Path(CONFIG).is_file() else b""
    about = [
        _FORMAT,
        str(nbgrader.__version__),
        hashlib.sha256(config).hexdigest(),
        sorted(map(json.dumps, shown)),
        [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in notebooks],
    ]
    return hashlib.sha256(json.dumps(about).encode("ascii")).hexdigest()
