"""A small submission goes through nbgrader's steps before judges and the teacher's children are forked.

So they find validators of notebooks, the gradebook's statements and what is imported at its first use. No code of a
notebook is run, and no file of the host's or of a teacher's is read: the course is made here, in a temporary folder.

Loads nbgrader: only in the environment that grades.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat.validator
from nbgrader.api import Gradebook
from nbgrader.preprocessors import ComputeChecksums, SaveCells

from nblauncher.grading import shortcuts
from nblauncher.grading.judge_side import judge, kernels
from nblauncher.grading.teacher_side import bench

_v4: Any = nbformat.v4
_ASSIGNMENT, _STUDENT, _NOTEBOOK = "rehearsal", "student", "notebook"
_MINORS = (0, 2, 4, 5)
"""The minor versions of nbformat 4 that are met in courses."""


def rehearse() -> None:
    """For a process with one thread, whose HOME is empty. It is in another folder afterwards."""
    engine = shortcuts.install()
    kernels.register()
    for minor in _MINORS:
        for relaxes in (False, True):
            nbformat.validator.validate(_v4.new_notebook(nbformat_minor=minor), relax_add_props=relaxes)
    with tempfile.TemporaryDirectory(prefix="nblauncher-rehearsal-") as folder, _without_config(folder):
        course = Path(folder)
        url = f"sqlite:///{course}/gradebook.db"
        with contextlib.closing(sqlite3.connect(course / "gradebook.db")) as made, made:
            # nbgrader would start alembic for it.
            made.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        notebook = _released(url)
        text = judge.rehearse(_v4.writes(notebook), _NOTEBOOK, _ASSIGNMENT, _STUDENT, url)
        submitted = course / "submitted" / _STUDENT / _ASSIGNMENT
        submitted.mkdir(parents=True)
        (submitted / f"{_NOTEBOOK}.ipynb").write_text(text)
        bench.rehearse(course, _STUDENT, _ASSIGNMENT, {_NOTEBOOK: text})
        os.chdir("/")
    engine.forget()


def _released(url: str) -> Any:
    """A notebook with a cell of each kind, as the gradebook knows it."""
    kinds = (
        *(("code", True, False, True, False), ("code", True, True, False, False), ("code", False, True, False, False)),
        *(("code", False, False, True, False), ("markdown", True, True, False, False)),
        ("markdown", False, False, True, True),
    )
    kernel = {"name": "python3", "display_name": "Python", "language": "python"}
    notebook = _v4.new_notebook(metadata={"kernelspec": kernel})
    for number, (cell_type, grade, solution, locked, task) in enumerate(kinds):
        make = _v4.new_code_cell if cell_type == "code" else _v4.new_markdown_cell
        about = {"grade": grade, "solution": solution, "locked": locked, "task": task, "grade_id": f"cell{number}"}
        points = {"points": 1} if grade or task else {}
        about = {**about, "schema_version": 3, "cell_type": cell_type, **points}
        notebook.cells.append(make("1 + 1", metadata={"nbgrader": about}))
    with Gradebook(url) as gradebook:
        gradebook.add_assignment(_ASSIGNMENT)
    about = {"notebook": _NOTEBOOK, "assignment": _ASSIGNMENT, "student": ".", "db_url": url}
    resources = {"nbgrader": about, "metadata": {}}
    for step in (ComputeChecksums, SaveCells):
        notebook, resources = step()(notebook, resources)
    return notebook


@contextlib.contextmanager
def _without_config(scratch: str) -> Iterator[None]:
    """No configuration of Jupyter's is read from the host. jupyter_core makes a temporary folder that stands for none
    and never removes it: it is made in `scratch`, which goes.
    """
    before, tempfile.tempdir = tempfile.tempdir, scratch
    os.environ["JUPYTER_NO_CONFIG"] = "1"
    try:
        yield
    finally:
        del os.environ["JUPYTER_NO_CONFIG"]
        tempfile.tempdir = before
