"""Make nbgrader's cells of a submission what the assignment says, before nbgrader looks at them.

nbgrader restores sources and points of locked cells. It believes a notebook which of its cells are tests: one whose
`solution` is taken away gives full points for any answer. And it drops tests that were deleted, by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.nbgraderformat import SCHEMA_VERSION
from nbgrader.utils import is_grade, is_locked, is_solution, is_task

Cells = Mapping[str, Mapping[str, Any]]
"""By grade_id, as teacher_side.survey describes them: kind, type, properties, and the source of a test."""


def restored(notebook: Any, expected: Cells) -> list[str]:
    """Change this notebook; what was not as it should be, a line each."""
    found = [*_only_known(notebook, expected)]
    there = {about["grade_id"]: cell for cell in notebook.cells if (about := _about(cell))}
    for name, kind in expected.items():
        words = "the test" if kind["kind"] == "test" else "the cell"
        if name not in there:
            is_restored = kind["kind"] == "test"
            found.append(f"{words} {name} was deleted{', and restored' if is_restored else ''}")
            if is_restored:
                notebook.cells.append(_test(name, kind, notebook))
            continue
        cell = there[name]
        if kind["kind"] != "solution" and cell.source != kind["source"]:
            found.append(f"{words} {name} was edited, and restored")
        if cell.cell_type != kind["type"] or _properties(cell) != kind["properties"]:
            found.append(f"the properties of {name} were edited, and restored")
            cell.metadata.nbgrader.pop("points", None)
            cell.metadata.nbgrader.update(_wanted(kind))
    return found


def _properties(cell: Any) -> dict[str, Any]:
    """As nbgrader reads them: a test is locked, whatever its metadata say."""
    about = cell.metadata.nbgrader
    flags = {"solution": is_solution(cell), "locked": is_locked(cell), "task": is_task(cell)}
    if any(type(about.get(key, False)) is not bool for key in ("grade", *flags)):
        return {}
    points = {"points": about.get("points")} if is_grade(cell) or is_task(cell) else {}
    return {"grade": is_grade(cell), **flags, **points}


def _wanted(kind: Mapping[str, Any]) -> dict[str, Any]:
    return {**kind["properties"], "schema_version": SCHEMA_VERSION}


def _only_known(notebook: Any, expected: Cells) -> list[str]:
    """Of several cells with the same grade_id nbgrader takes the last. The others become a student's own."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    for cell in reversed(notebook.cells):
        if "nbgrader" not in cell.metadata:
            continue
        name = _about(cell).get("grade_id")
        if name in seen:
            found[f"cell {name} is there several times"] = None
        elif name in expected:
            seen.add(str(name))
            continue
        elif name:
            found[f"cell {str(name)[:100]} is not one of the assignment"] = None
        elif not isinstance(cell.metadata.nbgrader, dict):
            found["a cell has properties that nbgrader does not have"] = None
        del cell.metadata["nbgrader"]
    return list(found)


def _about(cell: Any) -> Mapping[str, Any]:
    about = cell.metadata.get("nbgrader")
    return about if isinstance(about, dict) and isinstance(about.get("grade_id"), str) else {}


def _test(name: str, kind: Mapping[str, Any], notebook: Any) -> NotebookNode:
    about = NotebookNode({"grade_id": name, "cell_type": kind["type"], "checksum": kind["checksum"], **_wanted(kind)})
    make = new_code_cell if kind["type"] == "code" else new_markdown_cell
    cell: NotebookNode = make(kind["source"], metadata=NotebookNode(nbgrader=about))
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        del cell["id"]
    return cell
