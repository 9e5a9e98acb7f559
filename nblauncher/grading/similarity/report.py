"""Read all submissions of an assignment, compare them and write the page. Runs in a child that is the teacher."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError, RefusedError
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.grading.similarity import comparing, page, reading, submissions
from nblauncher.printable import printable
from nblauncher.system import files, root_files

_MOST_TOKENS = 10_000_000
"""Of the class; they and their fingerprints take some 350 MB."""
_MOST_KINDS = 12
_MOST_NAMED = 200
"""Files that were left out, in the answer and on the page."""


def report(root: str, assignment: str, usernames: Sequence[str], title: str) -> Mapping[str, Any]:
    """Write `<root>/similar/<assignment>.html`, for the teacher's eyes only. Returns its path and a summary, as JSON.

    A file that cannot be read is left out and named, and a student without a submission is listed.
    """
    course = CourseFolder(Path(root))
    handed_out, notes = _handed_out(course, assignment)
    collected = _collect(course, assignment, usernames, handed_out)
    found = collected.found
    if len(found) < 2:
        raise RefusedError(
            f"{len(found)} of {len(usernames)} students have a submission of {assignment}: nothing to compare",
            "Collect the submissions first; the page of an earlier comparison was left as it is.",
        )
    comparison = comparing.compare(found)
    kinds = collected.other_kinds.most_common(_MOST_KINDS)
    now = datetime.now().astimezone()
    facts = page.Facts(title, now, collected.left_out, kinds, notes, collected.missing)
    file = course.similar(assignment)
    _write(file, page.page(comparison, handed_out, facts))
    return {
        "page": str(file),
        "compared": comparison.compared,
        "missing": collected.missing,
        "pairs": [_row(pair) for pair in comparison.pairs[: page.MOST_PAIRS]],
        "left_out": [{"username": name, "path": path, "reason": reason} for name, path, reason in collected.left_out],
        "notes": notes,
    }


@dataclass
class _Collected:
    found: list[submissions.Submission] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Students without a submission."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    other_kinds: Counter[str] = field(default_factory=Counter)


def _collect(
    course: CourseFolder, assignment: str, usernames: Sequence[str], handed_out: submissions.HandedOut
) -> _Collected:
    collected, size = _Collected(), 0
    for username in usernames:
        read = _read(course.submitted(username, assignment))
        if read is None:
            collected.missing.append(username)
            continue
        collected.left_out += [(username, printable(path), reason) for path, reason in read.left_out]
        collected.other_kinds += read.other_kinds
        one = submissions.submission(username, read.parts, handed_out)
        size += len(one.tokens.codes)
        if size > _MOST_TOKENS:
            collected.left_out.append((username, "everything", "the submissions before it have all the code that fits"))
        else:
            collected.found.append(one)
    if len(collected.left_out) > _MOST_NAMED:
        more = len(collected.left_out) - _MOST_NAMED
        collected.left_out[_MOST_NAMED:] = [("", f"and {more} more files", "")]
    return collected


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        root_files.replace(file, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise HostError(
            f"{file} cannot be written: {files.words_of(error)}",
            "Nothing was graded or changed; a page of an earlier comparison is still there.",
        ) from error


def _row(pair: comparing.Pair) -> dict[str, object]:
    return {
        "one": pair.one.username,
        "other": pair.other.username,
        "score": round(pair.score, 4),
        "one_in_other": round(pair.one_in_other, 4),
        "other_in_one": round(pair.other_in_one, 4),
    }


def _handed_out(course: CourseFolder, assignment: str) -> tuple[submissions.HandedOut, list[str]]:
    """What `release` has, or else `source` without its solutions."""
    for folder, is_source in ((course.release(assignment), False), (course.source(assignment), True)):
        read = _read(folder, is_source=is_source)
        if read is not None and read.parts:
            notes = [f"{folder.parent.name}/{assignment}/{path} was left out: {why}" for path, why in read.left_out]
            if is_source:
                notes.append(
                    f"release/{assignment} has no code: what was handed out was taken from source/{assignment}, "
                    "without its solutions."
                )
            return submissions.HandedOut.of(read.parts), [printable(note) for note in notes]
    note = (
        f"Neither release/{assignment} nor source/{assignment} has code: what was handed out counts as the students'."
    )
    return submissions.HandedOut(), [note]


def _read(folder: Path, *, is_source: bool = False) -> reading.Reading | None:
    """None when there is no such folder."""
    try:
        descriptor = files.open_folder(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return None
        return reading.Reading(left_out=[("", files.words_of(error))])
    try:
        return reading.read(descriptor, is_source=is_source)
    finally:
        os.close(descriptor)
