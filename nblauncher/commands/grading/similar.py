"""`grade ASSIGNMENT --similar`: which submissions are alike, as a page in the teacher's folder and as rows.

Nothing is executed or graded. A child that is the teacher reads the submissions; root takes its answer as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.similarity import report
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.system import workers

_TIMEOUT = 1800.0
_MOST_NOTES = 10


def carry_out(
    host: Host, assignment: str, usernames: Sequence[str]
) -> tuple[Path, Sequence[Mapping[str, Any]], Sequence[str]]:
    """The page's path, the best pairs, and what the teacher should know: files left out, students without work.

    A pair is {"one", "other", "score", "one_in_other", "other_in_one"}, numbers between 0 and 1. RefusedError when the
    teacher is root, or fewer than two have handed in.
    """
    if host.owner.uid == 0:
        raise RefusedError(
            "submissions are not read as root; nothing was changed",
            "Name the teacher's account as `owner:` in notebooks.cfg, or run the command with sudo as the teacher.",
        )
    folder = CourseFolder(host.settings.grading.course)
    title = f"{host.settings.course}, {assignment}"
    said = workers.run_as(
        host.owner, report.report, str(folder.root), assignment, list(usernames), title, timeout=_TIMEOUT
    )
    try:
        return folder.similar(assignment), [_row(pair) for pair in said["pairs"]], _notes(said)
    except (KeyError, TypeError, ValueError) as error:
        raise HostError(f"the comparison as {host.owner.username} gave no usable answer: {error}") from error


def _row(pair: Mapping[str, Any]) -> Mapping[str, Any]:
    names = {key: printable(str(pair[key])) for key in ("one", "other")}
    return {**names, **{key: float(pair[key]) for key in ("score", "one_in_other", "other_in_one")}}


def _notes(said: Mapping[str, Any]) -> Sequence[str]:
    """Lines for the terminal."""
    notes = [printable(str(note)) for note in said["notes"]]
    missing = [str(name) for name in said["missing"]]
    if missing:
        notes.append(f"{len(missing)} of {len(missing) + int(said['compared'])} have no submission to compare")
    left_out = [f"{one['username']}: {one['path']}: {one['reason']} (not compared)" for one in said["left_out"]]
    if len(left_out) > _MOST_NOTES:
        left_out[_MOST_NOTES:] = [f"{len(left_out) - _MOST_NOTES} more files were not compared: see the page"]
    return [*notes, *map(printable, left_out)]
