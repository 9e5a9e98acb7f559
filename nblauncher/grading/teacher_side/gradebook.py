"""The gradebook, read with patience: another program may have it locked for a moment.

Loads nbgrader: only in the environment that grades.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps.api import NbGraderAPI
from sqlalchemy.exc import OperationalError

from nblauncher.errors import InputError
from nblauncher.grading.teacher_side import course

PATIENCE = 20.0
"""Seconds to wait for another program's transaction, such as a formgrader that saves a score."""

_PAUSE = 0.5

Result = TypeVar("Result")


def read(api: NbGraderAPI, reader: Callable[[Gradebook], Result], *, patience: float = PATIENCE) -> Result:
    """What `reader` returns; it is called again while the gradebook is locked. It must not write.

    InputError when there is no gradebook yet, HostError when it stays locked or cannot be read.
    """
    _require_file(api.coursedir.db_url)
    deadline = time.monotonic() + patience
    while True:
        try:
            with Gradebook(api.coursedir.db_url, api.coursedir.course_id) as book:
                return reader(book)
        except OperationalError as error:
            if not is_locked(error) or time.monotonic() > deadline:
                raise course.unusable(error) from error
        time.sleep(_PAUSE)


def find_assignment(book: Gradebook, name: str) -> Any:
    """InputError when the gradebook has none of that name."""
    try:
        return book.find_assignment(name)
    except MissingEntry:
        known = ", ".join(sorted(one.name for one in book.assignments)) or "none"
        raise InputError(
            f"the gradebook has no assignment {name}; it has: {known}",
            f"Check the name, or grade it first: `nblauncher grade {name}`.",
        ) from None


def is_locked(error: BaseException | None) -> bool:
    return isinstance(error, OperationalError) and any(word in str(error.orig) for word in ("locked", "busy"))


def _require_file(url: str) -> None:
    """Opening a gradebook that is not there would make one."""
    parts = urlsplit(url)
    file = unquote(parts.path)[1:]
    if parts.scheme.startswith("sqlite") and file and not os.path.exists(file):
        raise InputError(f"there is no gradebook {file}: nothing was graded yet", "Run `nblauncher grade ASSIGNMENT`.")
