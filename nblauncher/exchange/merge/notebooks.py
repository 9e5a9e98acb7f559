"""Notebooks, merged by cell: what the student wrote always stays, and unchanged cells become the teacher's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from nblauncher.exchange.merge import notebook_file
from nblauncher.exchange.merge.matching import Cell, add_by_content, add_by_similarity, by_name, content_of, pairs
from nblauncher.exchange.merge.notebook_file import WITH_IDS, Notebook, free_id
from nblauncher.exchange.merge.result import Merged, UnmergeableError
from nblauncher.exchange.merge.weaving import Key, woven

TAG = "nblauncher-update"
"""On the teacher's version of a cell, put below the student's because both had changed it."""

WORDS = (
    "**Your teacher has a new version of the cell above.** It is the next one, as text that does not run; yours was "
    "left as it was. Delete what you do not need."
)
"""The text between the two."""

_MARK = "nblauncher"
_BODY = ("cell_type", "source", "attachments", "outputs", "execution_count")
_RESULTS = ("outputs", "execution_count")


def merge(base: bytes, student: bytes, teacher: bytes, *, is_back: bool = False) -> Merged:
    """UnmergeableError when one of them is not a valid notebook of format 4, or when a file that `is_back` has nothing
    of `base`.

    The result names the merged version in its metadata, so merging the same version again changes nothing, whatever the
    student did meanwhile: a run that was killed before it was recorded is simply repeated.
    """
    merging = _Merging(
        notebook_file.read(base, "the version handed out"),
        notebook_file.read(student, "the student's version"),
        notebook_file.read(teacher, "the new version"),
    )
    version = hashlib.sha256(teacher).hexdigest()[:16]
    mark = merging.student.raw["metadata"].get(_MARK)
    if isinstance(mark, dict) and mark.get("has") == version:
        return Merged(student, 0, merging.has_only_our_outputs(merging.student))
    if is_back and merging.is_of_the_students_own:
        raise UnmergeableError("nothing in it is of the version handed out")
    merged = merging.merged()
    check_nothing_is_lost(merging.base, merging.student, merged)
    if notebook_file.are_equal(merged, merging.student):
        return Merged(student, 0, merging.has_only_our_outputs(merged))
    merged.raw["metadata"][_MARK] = {"has": version}
    notebook_file.check(merged, "the merge would not be a valid notebook")
    return Merged(notebook_file.written(merged), merging.conflicts, merging.has_only_our_outputs(merged))


def check_nothing_is_lost(base: Notebook, student: Notebook, merged: Notebook) -> None:
    """UnmergeableError unless the result has everything that the student wrote (docs/security.md, promise 3)."""
    handed_out = Counter(map(content_of, (*base.cells, *map(_copy, base.cells))))
    written = Counter(map(content_of, student.cells)) - handed_out
    if written - Counter(map(content_of, merged.cells)):
        raise UnmergeableError("the merge would lose some of the student's work")


class _Merging:
    """One merge. A cell is identified by its index in its version; the student's copies are separate (`_is_copy`)."""

    def __init__(self, base: Notebook, student: Notebook, teacher: Notebook) -> None:
        self.base, self.student, self.teacher = base, student, teacher
        self.conflicts = 0
        handed_out = {cell.get("id") for cell in base.cells}
        self._copies = {
            index for index, cell in enumerate(student.cells) if _is_copy(cell) and cell.get("id") not in handed_out
        }
        given = pairs(base.cells, teacher.cells)
        kept, arrived = _partners(base.cells, student.cells, teacher.cells, set(given.values()), self._copies)
        self.is_of_the_students_own = bool(base.cells and student.cells) and not kept
        self._base_of = {other: one for one, other in kept.items()}
        self._teacher_of = {other: given[one] for one, other in kept.items() if one in given} | arrived
        self._student_of = {other: one for one, other in self._teacher_of.items()}
        known = {*given.values(), *self._student_of}
        self._new = [index for index in range(len(teacher.cells)) if index not in known]
        common = kept.keys() & given.keys()
        self._is_moved = _is_in_order(kept, common) and not _is_in_order(given, common)
        own = [content_of(cell) for index, cell in enumerate(student.cells) if index not in self._copies]
        self._doubled = Counter(own) - Counter(map(content_of, base.cells))
        self._renewed: dict[int, Cell] = {}
        self._taken = {cell["id"] for cell in student.cells if "id" in cell}

    def merged(self) -> Notebook:
        groups: dict[Key, list[Cell]] = {}
        for index in range(len(self.student.cells)):
            groups["student", index] = self._cells_of(index)
        for index in self._new:
            groups["teacher", index] = [self._identified(dict(self.teacher.cells[index]))]
        minor = max(self.student.minor, self.teacher.minor)
        cells = [_fitting(cell, minor) for key in self._order() for cell in groups[key]]
        for cell in cells if minor >= WITH_IDS else ():
            if "id" not in cell:
                self._identify(cell, cell["source"])
        versions = [version.raw for version in (self.base, self.student, self.teacher)]
        metadata = merged_mappings(*(version["metadata"] for version in versions))
        return Notebook({**self.student.raw, "cells": cells, "metadata": metadata, "nbformat_minor": minor})

    def has_only_our_outputs(self, merged: Notebook) -> bool:
        """Whether outputs and widgets are the teacher's: each belongs to the same cell as in the teacher's version."""
        ours: dict[object, list[object]] = {}
        for cell in (*self.base.cells, *self.teacher.cells):
            ours.setdefault(content_of(cell), []).append(cell.get("outputs"))
        widgets = [version.raw["metadata"].get("widgets") for version in (self.base, self.teacher)]
        return merged.raw["metadata"].get("widgets") in (None, *widgets) and all(
            cell["outputs"] in ours.get(content_of(cell), ()) for cell in merged.cells if cell.get("outputs")
        )

    def _order(self) -> list[Key]:
        """The student's order; new cells follow their predecessor in the teacher's version and the student's own cells.

        If the teacher moved cells and the student did not, the teacher's order; the student's own cells follow their
        predecessor.
        """
        students: list[Key] = [("student", index) for index in range(len(self.student.cells))]
        teachers: list[Key] = [
            ("student", self._student_of[index]) if index in self._student_of else ("teacher", index)
            for index in range(len(self.teacher.cells))
            if index in self._student_of or index in self._new
        ]
        if self._is_moved:
            return woven(teachers, students)
        steps_back = {key for key in students if key[1] not in self._teacher_of}
        return woven(students, teachers, behind=steps_back)

    def _cells_of(self, index: int) -> list[Cell]:
        """What replaces one of the student's cells: itself, the teacher's text, both, or nothing."""
        student = self._renewed.get(index, self.student.cells[index])
        if index not in self._base_of:
            return [student]
        base = self.base.cells[self._base_of[index]]
        is_touched = self._is_touched(student, base, is_removed=index not in self._teacher_of)
        if index not in self._teacher_of:
            return [student] if is_touched else []
        teacher = self.teacher.cells[self._teacher_of[index]]
        metadata = merged_mappings(base["metadata"], student["metadata"], teacher["metadata"])
        merged = {**student, "metadata": metadata}
        if "id" not in student and "id" in teacher:
            merged = self._identified({**merged, "id": teacher["id"]})
        if content_of(teacher) in (content_of(base), content_of(student)):
            if not is_touched and all(student.get(key) == base.get(key) for key in _RESULTS):
                _take(merged, teacher, _RESULTS)
            return [merged]
        if not is_touched:
            _take(merged, teacher, _BODY)
            return [merged]
        return [merged, *self._put_below(index, base, teacher)]

    def _is_touched(self, student: Cell, base: Cell, *, is_removed: bool) -> bool:
        """If the student copied the cell, only the id shows which is which, and not after one of them is gone."""
        if content_of(student) != content_of(base):
            return True
        is_told_apart = "id" in base and student.get("id") == base["id"] and not is_removed
        return content_of(student) in self._doubled and not is_told_apart

    def _put_below(self, index: int, base: Cell, teacher: Cell) -> list[Cell]:
        """The teacher's version with a note; nothing if it is already below. An older copy is replaced."""
        below = self._copies_below(index)
        copy, older = _copy(teacher), _copy(base)
        if any(content_of(self.student.cells[number]) == content_of(copy) for number in below):
            return []
        self.conflicts += 1
        for number in below:
            if content_of(self.student.cells[number]) == content_of(older):
                self._renewed[number] = _take(dict(self.student.cells[number]), copy, _BODY)
                return []
        words = _copy({"cell_type": "markdown", "metadata": {}, "source": WORDS})
        for cell in (words, copy):
            self._identify(cell, f"{cell['cell_type']}:{cell['source']}:{teacher['source']}")
        return [words, copy]

    def _copies_below(self, index: int) -> list[int]:
        last = index
        while last + 1 in self._copies:
            last += 1
        return list(range(index + 1, last + 1))

    def _identified(self, cell: Cell) -> Cell:
        """The teacher's new cell keeps its id unless one of the student's cells has it."""
        if cell.get("id") in self._taken:
            self._identify(cell, cell["source"])
        elif "id" in cell:
            self._taken.add(cell["id"])
        return cell

    def _identify(self, cell: Cell, seed: str) -> None:
        cell["id"] = free_id(seed, self._taken)
        self._taken.add(cell["id"])


def merged_mappings(base: Mapping[str, Any], student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """By key, recursively; where both changed a value, the student's."""
    merged = {}
    for key in dict.fromkeys((*student, *teacher)):
        values = tuple(version.get(key, _ABSENT) for version in (base, student, teacher))
        if all(isinstance(value, Mapping) for value in values):
            value = merged_mappings(*values)
        else:
            value = values[2] if values[0] == values[1] else values[1]
        if value is not _ABSENT:
            merged[key] = value
    return merged


_ABSENT = object()


def _partners(
    base: Sequence[Cell], student: Sequence[Cell], teacher: Sequence[Cell], known: set[int], copies: set[int]
) -> tuple[dict[int, int], dict[int, int]]:
    """The student's cell for each of the base's, and the teacher's cell, if not `known`, for each of the student's.

    The second kind is new in both: from a run that was killed before it was recorded, or copied by hand. Equal cells
    are paired before similar ones.
    """
    kept = by_name(base, student)
    old = {*copies, *kept.values()}
    arrived = {one: other for one, other in by_name(student, teacher).items() if one not in old and other not in known}
    add_by_content(base, student, kept, {*copies, *arrived})
    strangers = [index for index in range(len(student)) if index not in {*copies, *kept.values()}]
    some = [student[index] for index in strangers]
    found = {strangers.index(one): other for one, other in arrived.items()}
    add_by_content(some, teacher, found, known)
    arrived = {strangers[one]: other for one, other in found.items()}
    add_by_similarity(base, student, kept, {*copies, *arrived})
    return kept, arrived


def _is_copy(cell: Cell) -> bool:
    return isinstance(cell["metadata"].get(_MARK), dict) and TAG in cell["metadata"].get("tags", ())


def _copy(cell: Cell) -> Cell:
    """The copy below a student's cell: it can be deleted, and neither runs nor is graded. Code would redefine the
    student's names, and a second cell with a grade_id ends nbgrader's run.
    """
    kind = "raw" if cell["cell_type"] == "code" else cell["cell_type"]
    copy: Cell = {"cell_type": kind, "metadata": {"tags": [TAG], _MARK: {"is_update": True}}}
    return copy | {key: cell[key] for key in ("source", "attachments") if key in cell}


def _take(cell: Cell, other: Cell, keys: Iterable[str]) -> Cell:
    """Give the cell these keys as the other has them; drop those that the other lacks."""
    for key in keys:
        cell.pop(key, None)
        if key in other:
            cell[key] = other[key]
    return cell


def _fitting(cell: Cell, minor: int) -> Cell:
    """Below 4.5 no cell may have an id."""
    return cell if minor >= WITH_IDS else {key: value for key, value in cell.items() if key != "id"}


def _is_in_order(found: Mapping[int, int], common: Collection[int]) -> bool:
    others = [found[index] for index in sorted(common)]
    return others == sorted(others)
