"""The teacher's course as nbgrader sees it: its config, its folders and its gradebook.

Loads nbgrader: only in the environment that grades.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, InvalidEntry
from nbgrader.apps.api import NbGraderAPI
from nbgrader.apps.baseapp import NbGrader
from nbgrader.coursedir import CourseDirectory
from sqlalchemy.exc import OperationalError

from nblauncher.errors import HostError, InputError
from nblauncher.grading.course_folder import CONFIG

_FIXED = ("source_directory", "release_directory", "submitted_directory", "autograded_directory", "feedback_directory")
_PLAIN = "{nbgrader_step}/{student_id}/{assignment_id}"


def opened(folder: str | Path) -> NbGraderAPI:
    """nbgrader's own API for this folder, with the configs that plain `nbgrader` would read there.

    InputError when its config puts the course's folders elsewhere: nblauncher would fill others than nbgrader reads.
    """
    os.chdir(folder)  # where nbgrader looks for its config, and the default of its root
    app = NbGrader()
    app.init_syspath()
    app.load_config_file()
    course = CourseDirectory(parent=app)
    names = {name: getattr(course, name) for name in _FIXED}
    moved = [f"{name} is {value}" for name, value in names.items() if value != name.removesuffix("_directory")]
    if os.path.realpath(course.root) != os.path.realpath(folder):
        moved.append(f"root is {course.root}")
    if course.directory_structure != _PLAIN:
        moved.append(f"directory_structure is {course.directory_structure}")
    if moved:
        raise InputError(
            f"{Path(folder) / CONFIG} has other folders than those that nblauncher uses: {', '.join(moved)}",
            "Take these lines out of it, or name the course's root in notebooks.cfg as `grading.course`.",
        )
    return NbGraderAPI(coursedir=course, parent=app)


@contextlib.contextmanager
def gradebook(api: NbGraderAPI) -> Iterator[Gradebook]:
    """The course's gradebook. HostError when another program keeps it locked, or it cannot be used."""
    try:
        with Gradebook(api.coursedir.db_url, api.coursedir.course_id) as book:
            yield book
    except OperationalError as error:
        raise unusable(error) from error


def unusable(error: OperationalError | InvalidEntry) -> HostError:
    """Why the gradebook cannot be used, and what to do. nbgrader wraps some of SQLAlchemy's errors."""
    words = str(error.orig if isinstance(error, OperationalError) else error)
    if "locked" in words or "busy" in words:
        return HostError(
            "the gradebook is locked by another program, such as an open formgrader",
            "Nothing of this was written. Wait until it is done, or end it, then run the command again.",
        )
    if "no such column" in words or "no such table" in words:
        return HostError(
            f"the gradebook was made by another version of nbgrader ({words})",
            "Back it up, then run `nbgrader db upgrade` in the course's folder.",
        )
    return HostError(f"the gradebook cannot be used: {words}", "Nothing of this was written.")


def names_of(book: Gradebook) -> dict[str, dict[str, Any]]:
    """What the gradebook knows of each student, by id."""
    return {
        one.id: {"first_name": one.first_name, "last_name": one.last_name, "email": one.email} for one in book.students
    }
