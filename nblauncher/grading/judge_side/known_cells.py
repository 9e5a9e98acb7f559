"""What nbgrader's steps ask of the gradebook about the assignment, answered from what the judge was told of it.

The copy of the gradebook has the same, and is asked for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from nbgrader.api import Gradebook

from nblauncher.grading.judge_side.restoring import Cells


@dataclass(frozen=True, slots=True)
class Known:
    """By notebook: its cells, and its kernelspec as the gradebook has it."""

    assignment: str
    cells: Mapping[str, Cells]
    kernelspecs: Mapping[str, str | None]

    def install(self) -> None:
        """For all gradebooks of this process."""
        for name, known in (
            ("find_source_cell", self._source_cell),
            ("find_graded_cell", self._graded_cell),
            ("find_notebook", self._notebook),
        ):
            setattr(Gradebook, name, _first(known, getattr(Gradebook, name)))

    def _source_cell(self, _asked: Callable[[], Any], name: str, notebook: str, assignment: str) -> Any:
        about = self._about(name, notebook, assignment)
        if about is None or (about["properties"]["locked"] and about["kind"] == "solution"):  # its source is not known
            return None
        return SimpleNamespace(
            name=name,
            cell_type=about["type"],
            source=about["source"],
            checksum=about["checksum"],
            locked=about["properties"]["locked"],
        )

    def _graded_cell(self, _asked: Callable[[], Any], name: str, notebook: str, assignment: str) -> Any:
        about = self._about(name, notebook, assignment)
        if about is None or "points" not in about["properties"]:
            return None
        return SimpleNamespace(name=name, cell_type=about["type"], max_score=about["properties"]["points"])

    def _notebook(self, asked: Callable[[], Any], name: str, assignment: str) -> Any:
        if assignment != self.assignment or name not in self.kernelspecs:
            return None
        return _Notebook(asked, self.kernelspecs[name])

    def _about(self, name: str, notebook: str, assignment: str) -> Mapping[str, Any] | None:
        return self.cells.get(notebook, {}).get(name) if assignment == self.assignment else None


class _Notebook:
    """A notebook of the gradebook, which is asked for whatever else a step wants to know of it."""

    def __init__(self, asked: Callable[[], Any], kernelspec: str | None) -> None:
        self._asked, self.kernelspec = asked, kernelspec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asked(), name)


def _first(known: Callable[..., Any], asked: Callable[..., Any]) -> Callable[..., Any]:
    """What is known, or else what the gradebook says: nothing that is known is None."""

    def find(book: Gradebook, *names: str, **more: str) -> Any:
        found = None if more else known(lambda: asked(book, *names), *names)
        return asked(book, *names, **more) if found is None else found

    return find
