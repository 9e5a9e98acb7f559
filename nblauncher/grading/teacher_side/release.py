"""Verb: make what students are handed of an assignment, with nbgrader's generate_assignment, and set its due date."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nblauncher.errors import InputError
from nblauncher.grading import releases
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.teacher_side import refusals


def act(folder: str, assignment: str, generates: bool, due: str) -> dict[str, Any]:
    """InputError in nbgrader's own words when it refuses the source; the earlier release is there then as it was.

    `due`: ISO 8601, UTC; '' leaves the gradebook's due date alone.
    """
    root = CourseFolder(Path(folder))
    if importlib.util.find_spec("nbgrader") is None:
        raise InputError(
            f"{root.source(assignment)} is newer than its release, and there is no nbgrader to generate it",
            "Add nbgrader to grading.requirements and run `nblauncher grade init`, or put what students get into "
            f"{root.release(assignment)} and the source elsewhere. Nothing was sent.",
        )
    from nblauncher.grading.teacher_side import course

    with _alone(root):
        api = course.opened(folder)
        now = releases.recall(root, assignment)
        if generates:
            made_of = releases.digest(root.source(assignment))  # before: what is saved meanwhile counts as newer
            _generate(api, root, assignment)
            now = replace(now, source=made_of, release=releases.digest(root.release(assignment)))
            releases.remember(root, assignment, now)
        if due:
            with course.gradebook(api) as book:
                book.update_or_create_assignment(assignment, duedate=due)
            releases.remember(root, assignment, replace(now, due=due))
    return {}


def _generate(api: Any, root: CourseFolder, assignment: str) -> None:
    """nbgrader deletes a release before it makes the next, and what it has made when it fails."""
    release, aside = root.release(assignment), root.root / ".nblauncher" / "earlier release" / assignment
    aside.parent.mkdir(exist_ok=True)
    if not release.exists() and aside.exists():
        aside.rename(release)  # a killed run left it there
    if aside.exists():
        shutil.rmtree(aside)
    if release.exists():
        release.rename(aside)
    said = api.generate_assignment(assignment, force=True, create=True)
    if said["success"] and release.is_dir():
        if aside.exists():
            shutil.rmtree(aside)
        return
    if release.exists():
        shutil.rmtree(release)
    if aside.exists():
        aside.rename(release)
    why = refusals.words(said.get("log", ""), said.get("error", ""))
    raise InputError(
        f"nbgrader does not make a release of {assignment}: {why}",
        f"Correct {root.source(assignment)}. Nothing was sent.",
    )


@contextlib.contextmanager
def _alone(root: CourseFolder) -> Iterator[None]:
    """One program at a time generates in this course."""
    records = root.root / ".nblauncher"
    records.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(records / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
