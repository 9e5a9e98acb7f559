"""Which cell of one version corresponds to which of another: by id, grade_id, content, similarity, place.

Ids mean nothing if two versions share none: a tool made all of them (jupytext, Quarto), or Jupyter did at the first
save of a file without ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

Cell = dict[str, Any]
Content = tuple[str, str, str]

_ALIKE = 0.6
"""At this difflib ratio or more, a source without a partner is taken for an edit of the other."""
_MOST_PAIRS = 4000
_LONGEST = 20_000


def content_of(cell: Cell) -> Content:
    """What its author wrote: type, source and attachments, without outputs and metadata."""
    attachments = cell.get("attachments")
    return cell["cell_type"], cell["source"], json.dumps(attachments, sort_keys=True) if attachments else ""


def pairs(first: Sequence[Cell], second: Sequence[Cell]) -> dict[int, int]:
    """Index in `second` by index in `first`, for cells that have a partner. Each has one at most."""
    found = by_name(first, second)
    add_by_content(first, second, found)
    add_by_similarity(first, second, found)
    return found


def by_name(first: Sequence[Cell], second: Sequence[Cell]) -> dict[int, int]:
    """`pairs` of cells with the same id, then of those with the same grade_id."""
    found: dict[int, int] = {}
    for name_of in (_id_of, _grade_id_of):
        names, others = _unique(first, name_of), _unique(second, name_of)
        taken = set(found.values())
        new = {index: others[name] for name, index in names.items() if name in others}
        found |= {one: other for one, other in new.items() if one not in found and other not in taken}
    return found


def _unique(cells: Sequence[Cell], name_of: Callable[[Cell], Any]) -> dict[str, int]:
    names = [name_of(cell) for cell in cells]
    counts = Counter(name for name in names if isinstance(name, str))
    return {name: index for index, name in enumerate(names) if isinstance(name, str) and name and counts[name] == 1}


def _id_of(cell: Cell) -> Any:
    return cell.get("id")


def _grade_id_of(cell: Cell) -> Any:
    graded = cell["metadata"].get("nbgrader")
    return graded.get("grade_id") if isinstance(graded, dict) else None


def _share_ids(first: Sequence[Cell], second: Sequence[Cell]) -> bool:
    return bool(_unique(first, _id_of).keys() & _unique(second, _id_of).keys())


def add_by_content(
    first: Sequence[Cell], second: Sequence[Cell], found: dict[int, int], taken: Collection[int] = ()
) -> None:
    """Equal cells in the same order, then those that moved; none of `second` that are `taken`."""
    left, right = _unpaired(first, second, found, taken)
    if not left or not right:
        return
    contents = [content_of(first[index]) for index in left], [content_of(second[index]) for index in right]
    if not set(contents[0]) & set(contents[1]):
        return
    for start, other, size in SequenceMatcher(None, *contents, autojunk=False).get_matching_blocks():
        found.update({left[start + step]: right[other + step] for step in range(size)})
    left, right = _unpaired(first, second, found, taken)
    moved = {content_of(second[index]): index for index in reversed(right)}
    for index in left:
        if (other_index := moved.pop(content_of(first[index]), None)) is not None:
            found[index] = other_index


def add_by_similarity(
    first: Sequence[Cell], second: Sequence[Cell], found: dict[int, int], taken: Collection[int] = ()
) -> None:
    """Only between the same neighbours, if any, and not if both have ids that differ. The only cell of its kind between
    the same neighbours, on both sides, is the other's new version, however different.
    """
    left, right = _unpaired(first, second, found, taken)
    if len(left) * len(right) > _MOST_PAIRS:
        return
    share_ids = _share_ids(first, second)

    def may_be(one: int, other: int) -> bool:
        both_named = "id" in first[one] and "id" in second[other]
        return first[one]["cell_type"] == second[other]["cell_type"] and not (share_ids and both_named)

    for index in left:
        low, high = _gap(index, len(first), len(second), found)
        candidates = [other for other in right if low < other < high and may_be(index, other)]
        ratios = {other: _similarity(first[index], second[other]) for other in candidates}
        best = max(candidates, key=ratios.__getitem__, default=-1)
        if best >= 0 and ratios[best] >= _ALIKE:
            found[index] = best
            right.remove(best)
    gaps: dict[tuple[int, int, str], list[int]] = {}
    for index in left:
        if index not in found:
            gaps.setdefault((*_gap(index, len(first), len(second), found), first[index]["cell_type"]), []).append(index)
    for (low, high, _kind), alone in gaps.items():
        candidates = [other for other in right if low < other < high and may_be(alone[0], other)]
        if len(alone) == len(candidates) == 1 and low + 1 < high:
            found[alone[0]] = candidates[0]
            right.remove(candidates[0])


def _unpaired(
    first: Sequence[Cell], second: Sequence[Cell], found: Mapping[int, int], taken: Collection[int]
) -> tuple[list[int], list[int]]:
    others = {*found.values(), *taken}
    return (
        [index for index in range(len(first)) if index not in found],
        [index for index in range(len(second)) if index not in others],
    )


def _gap(index: int, length: int, other_length: int, found: Mapping[int, int]) -> tuple[int, int]:
    before = next((found[near] for near in range(index - 1, -1, -1) if near in found), -1)
    after = next((found[near] for near in range(index + 1, length) if near in found), other_length)
    return (before, after) if before < after else (-1, other_length)


def _similarity(one: Cell, other: Cell) -> float:
    texts = one["source"], other["source"]
    if not all(texts) or max(map(len, texts)) > _LONGEST:
        return 0.0
    matcher = SequenceMatcher(None, *texts)
    if matcher.real_quick_ratio() < _ALIKE or matcher.quick_ratio() < _ALIKE:
        return 0.0
    return matcher.ratio()
