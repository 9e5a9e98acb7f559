"""What there is to grade: the assignment's cells, a copy of them for the judge, and the digest of each submission."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbgrader.api import Assignment, Gradebook, MissingEntry
from sqlalchemy import text

from nblauncher.errors import HostError, InputError
from nblauncher.grading import parcels
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.teacher_side import handed_in, submissions
from nblauncher.grading.teacher_side.graded_course import Course, digest_of
from nblauncher.grading.teacher_side.submissions import record
from nblauncher.system import privileges, workers


def run(connection: socket.socket, order: Mapping[str, Any]) -> int:
    """In a forked child: one answer, as teacher_tool.result_of takes it."""
    privileges.die_with_parent(os.getppid())

    def acted() -> Mapping[str, Any]:
        try:
            return act(**order)
        except OSError as error:  # a full disk, a folder that is not the teacher's
            where = f" ({error.filename})" if error.filename else ""
            raise HostError(f"{error.strerror or error}{where}") from error

    parcels.put_json(connection.fileno(), "answer", workers.answer_of(acted))
    return 0


def act(root: str, assignment: str, usernames: Sequence[str], environment: str) -> Mapping[str, Any]:
    """`environment` names the packages that grade. InputError when nbgrader does not know the assignment."""
    course = Course(Path(root))
    with course.gradebook() as gradebook:
        try:
            found = gradebook.find_assignment(assignment)
        except MissingEntry:
            raise InputError(
                f"nbgrader knows no assignment {assignment} yet", f"Run `nblauncher send --assignment {assignment}`."
            ) from None
        if not found.notebooks:
            raise InputError(f"assignment {assignment} has no notebooks")
        cells = {notebook.name: _cells(notebook) for notebook in found.notebooks}
        kernelspecs = {notebook.name: notebook.kernelspec for notebook in found.notebooks}
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy.db")
            _begin(copy, gradebook)
            _copy(found, f"sqlite:///{copy}")
            content = copy.read_bytes()
        about = _described(found)
    data = [(path, digest_of(file.read_bytes())) for path, file in course.data_files(assignment)]
    told = course.told()
    digest = digest_of(repr(about), repr(data), repr(sorted(told.items())), environment)
    folder_of = CourseFolder(Path(root))
    students = {name: _submission(course, folder_of, assignment, name, digest) for name in usernames}
    return {
        "cells": cells,
        "kernelspecs": kernelspecs,
        "gradebook": base64.b64encode(content).decode("ascii"),
        "config": told,
        "students": students,
        "max_score": float(about[1]),
    }


def _submission(course: Course, folder: CourseFolder, assignment: str, username: str, digest: str) -> dict[str, Any]:
    place = course.place("submitted", username, assignment)
    known = record(folder.records(assignment) / f"{username}.json")
    if not os.path.lexists(place):
        return {"is_there": False, "record": known or None}
    try:
        content = submissions.digest_of(place)
    except (HostError, OSError):  # grading it says why
        return {"is_there": True, "digest": "", "record": known or None}
    noted = handed_in.noted(folder.records(assignment), username)
    whole = digest_of(content, repr(noted), digest)
    return {"is_there": True, "digest": whole, "record": known or None}


def _described(assignment: Assignment) -> tuple[Any, ...]:
    """All that a score depends on."""
    solutions = [
        (notebook.name, notebook.kernelspec, cell.name)
        for notebook in assignment.notebooks
        for cell in notebook.solution_cells
    ]
    sources = [
        (notebook.name, cell.name, cell.source, cell.checksum, cell.locked)
        for notebook in assignment.notebooks
        for cell in notebook.source_cells
    ]
    points = [
        (notebook.name, cell.name, cell.max_score, cell.cell_type)
        for notebook in assignment.notebooks
        for cell in (*notebook.grade_cells, *notebook.task_cells)
    ]
    return sorted(map(repr, (*solutions, *sources, *points))), assignment.max_score, str(assignment.duedate)


def _cells(notebook: Any) -> dict[str, dict[str, Any]]:
    """What the judge holds a submission against. Of nbgrader's cells each: its kind (test, solution, cell), its source
    unless the student may write it, and what nbgrader's metadata must say.
    """
    graded = {cell.name: cell for cell in notebook.grade_cells}
    tasks = {cell.name: cell for cell in notebook.task_cells}
    solutions = {cell.name for cell in notebook.solution_cells}
    found = {}
    for cell in sorted(notebook.source_cells, key=lambda cell: cell.name):
        name = cell.name
        is_solution = name in solutions
        properties: dict[str, Any] = {"grade": name in graded, "solution": is_solution, "locked": bool(cell.locked)}
        properties["task"] = name in tasks
        if scored := graded.get(name) or tasks.get(name):
            properties["points"] = float(scored.max_score)
        kind = "solution" if is_solution else "test" if name in graded else "cell" if cell.locked else "solution"
        found[name] = {
            "kind": kind,
            "type": str(cell.cell_type),
            "source": "" if kind == "solution" else str(cell.source),
            "checksum": cell.checksum,
            "properties": properties,
        }
    return found


def _begin(file: Path, gradebook: Gradebook) -> None:
    """An empty gradebook of the same version. nbgrader would start alembic to find that out, for a second."""
    (version,) = gradebook.db.execute(text("SELECT version_num FROM alembic_version")).one()
    with contextlib.closing(sqlite3.connect(file)) as made, made:
        made.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        made.execute("INSERT INTO alembic_version VALUES (?)", (str(version),))


def _copy(assignment: Assignment, url: str) -> None:
    """This assignment alone, with no student, in a gradebook of its own."""
    with Gradebook(url) as copy:
        copy.add_assignment(assignment.name)
        for notebook in assignment.notebooks:
            copy.update_or_create_notebook(notebook.name, assignment.name, kernelspec=notebook.kernelspec)
            for cell in notebook.grade_cells:
                copy.add_grade_cell(
                    cell.name, notebook.name, assignment.name, max_score=cell.max_score, cell_type=cell.cell_type
                )
            for cell in notebook.solution_cells:
                copy.add_solution_cell(cell.name, notebook.name, assignment.name)
            for cell in notebook.task_cells:
                copy.add_task_cell(
                    cell.name, notebook.name, assignment.name, max_score=cell.max_score, cell_type=cell.cell_type
                )
            for cell in notebook.source_cells:
                copy.add_source_cell(
                    cell.name,
                    notebook.name,
                    assignment.name,
                    cell_type=cell.cell_type,
                    source=cell.source,
                    checksum=cell.checksum,
                    locked=cell.locked,
                )
