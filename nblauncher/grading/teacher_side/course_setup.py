"""Verb: make the teacher's course folder as far as it is missing, and bring the roster into the gradebook.

Nothing that is there is overwritten: not nbgrader_config.py, not source/, and no student or grade is removed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nblauncher.grading.course_folder import CONFIG, GRADEBOOK

_CONFIG_TEXT = """\
c = get_config()  # noqa

# Made by `nblauncher grade init`, once; it is yours from now on.
c.CourseDirectory.course_id = {course!r}
"""

Rows = Sequence[Mapping[str, str]]


def act(folder: str, course_id: str, students: Rows, changes_nothing: bool) -> dict[str, Any]:
    """`students`: id, first_name, last_name and email, where '' means: not known.

    What was made or, with `changes_nothing`, what would be: `made` names in the folder ('': itself), `added` and
    `changed` students, and `left`, those of the gradebook that are not among `students`. Without nbgrader only the
    folder is made.
    """
    root = Path(folder)
    if importlib.util.find_spec("nbgrader") is None:
        made = _make_folders(root, {"release": None}, changes_nothing)
        return {"made": made, "added": {}, "changed": {}, "left": [], "is_open": _is_open(root), "has_nbgrader": False}
    from nblauncher.grading.teacher_side import course

    if (root / CONFIG).exists():
        course.opened(root)  # refuses what we cannot use before anything is made
    wanted = {CONFIG: _CONFIG_TEXT.format(course=course_id), "source": None}
    made = _make_folders(root, wanted, changes_nothing)
    has_gradebook = root.is_dir() and _has_gradebook(root)
    known: dict[str, dict[str, Any]] = {}
    added, changed = _compared(students, known)
    if has_gradebook or not changes_nothing:
        with course.gradebook(course.opened(root)) as book:
            known = course.names_of(book)
            added, changed = _compared(students, known)
            for username, names in {**added, **changed}.items() if not changes_nothing else ():
                book.update_or_create_student(username, **names)
    there = {row["id"] for row in students}
    return {
        "made": made if has_gradebook else [*made, GRADEBOOK],
        "added": {username: sorted(names) for username, names in added.items()},
        "changed": {username: sorted(names) for username, names in changed.items()},
        "left": sorted(set(known) - there),
        "is_open": _is_open(root),
        "has_nbgrader": True,
    }


def _make_folders(root: Path, wanted: Mapping[str, str | None], changes_nothing: bool) -> list[str]:
    """What was missing of the folder and of `wanted`: files with their text, and folders.

    It has the solutions: nobody but the teacher may enter one that we make.
    """
    missing = [path for path in (root, *(root / name for name in wanted)) if not path.exists()]
    for path in missing if not changes_nothing else ():
        if path == root:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700)
        elif (text := wanted[path.name]) is None:
            path.mkdir()
        else:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    return ["" if path == root else path.name for path in missing]


def _has_gradebook(root: Path) -> bool:
    """False only for a SQLite file that does not exist: opening it would make it."""
    from sqlalchemy.engine import make_url

    from nblauncher.grading.teacher_side import course

    url = make_url(course.opened(root).coursedir.db_url)
    return url.get_backend_name() != "sqlite" or (url.database is not None and Path(url.database).exists())


def _compared(
    students: Rows, known: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Who is new, and what is different of whom. A name that only the teacher has split otherwise is left so."""
    added: dict[str, dict[str, str]] = {}
    changed: dict[str, dict[str, str]] = {}
    for row in students:
        wanted = {key: value for key, value in row.items() if key != "id" and value}
        there = known.get(row["id"])
        if there is None:
            added[row["id"]] = wanted
            continue
        if _words(wanted) == _words(there):
            wanted = {key: value for key, value in wanted.items() if key == "email"}
        if different := {key: value for key, value in wanted.items() if (there.get(key) or "") != value}:
            changed[row["id"]] = different
    return added, changed


def _words(names: Mapping[str, Any]) -> list[str]:
    return sorted(f"{names.get('first_name') or ''} {names.get('last_name') or ''}".split())


def _is_open(root: Path) -> bool:
    """Whether every account of the host can list the folder, which has the solutions."""
    if not root.is_dir():
        return False
    above = [root, *root.resolve().parents]
    return bool(root.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in above)
