"""A course while it is graded: the assignment's data files, and what of its config the confined judge is told."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook
from nbgrader.utils import find_all_files

from nblauncher.grading import shortcuts
from nblauncher.grading.teacher_side import course

_TOLD = (
    *("Autograde", "Execute", "ExecutePreprocessor", "NotebookClient", "ClearOutput", "DeduplicateIds"),
    *("OverwriteKernelspec", "OverwriteCells", "CheckCellMetadata", "IgnorePattern", "LimitOutput"),
    *("ClearMetadataPreprocessor", "NbConvertBase"),
)
"""The sections of the config that say how a notebook is graded."""


class Course:
    """`root` is the teacher's folder. InputError as course.opened."""

    def __init__(self, root: Path) -> None:
        self._api = course.opened(root)
        self.folder = self._api.coursedir
        self.config = self._api.config

    def gradebook(self) -> AbstractContextManager[Gradebook]:
        """HostError as course.gradebook."""
        return course.gradebook(self._api)

    def rest(self) -> None:
        """Hold nothing of the gradebook open until the next submission comes."""
        shortcuts.rest()

    def place(self, layer: str, student: str, assignment: str) -> Path:
        """`layer` is source, release, submitted, autograded or feedback."""
        return Path(self.folder.format_path(getattr(self.folder, f"{layer}_directory"), student, assignment))

    def data_files(self, assignment: str) -> Iterator[tuple[str, Path]]:
        """The files of the source folder besides the notebooks: they replace those of the same path in a submission."""
        source = self.place("source", ".", assignment)
        kept = self.config.get("Autograde", {}).get("exclude_overwriting", {}).get(assignment, [])
        for name in sorted(find_all_files(str(source), [*self.folder.ignore, "*.ipynb"])):
            path = os.path.relpath(name, source)
            if path not in kept:
                yield path, Path(name)

    def told(self) -> dict[str, Any]:
        """What the confined judge is told of the config: what can be said in JSON."""
        return {name: _plain(dict(self.config[name])) for name in _TOLD if name in self.config}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return value is None or isinstance(value, (str, int, float, bool))


def digest_of(*parts: bytes | str) -> str:
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()
