"""Which cell of one version is which cell of another: by id, then by content, then by likeness."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

Cell = dict[str, Any]
Content = tuple[str, str, str]

_ALIKE = 0.6
"""From this ratio of difflib on, a source without a partner is taken for an edit of the other."""
_MOST_PAIRS = 4000
_LONGEST = 20_000


def content_of(cell: Cell) -> Content:
    """What somebody wrote: type, source and attachments. Outputs and metadata are no part of it."""
    attachments = cell.get("attachments")
    return cell["cell_type"], cell["source"], json.dumps(attachments, sort_keys=True) if attachments else ""


def pairs(first: Sequence[Cell], second: Sequence[Cell]) -> dict[int, int]:
    """Index in `second` by index in `first`, for cells that have a partner. Each has one at most."""
    found = by_id(first, second)
    add_by_content(first, second, found)
    add_by_likeness(first, second, found)
    return found


def by_id(first: Sequence[Cell], second: Sequence[Cell]) -> dict[int, int]:
    """`pairs` of those with the same id."""
    known = _unique_ids(second)
    return {index: known[name] for name, index in _unique_ids(first).items() if name in known}


def _unique_ids(cells: Sequence[Cell]) -> dict[str, int]:
    counts = Counter(cell.get("id") for cell in cells)
    return {cell["id"]: index for index, cell in enumerate(cells) if counts[cell.get("id")] == 1 and cell.get("id")}


def add_by_content(
    first: Sequence[Cell], second: Sequence[Cell], found: dict[int, int], taken: Collection[int] = ()
) -> None:
    """Equal ones in the same order, then those that moved. None of `second` that is `taken` elsewhere."""
    left, right = _lonely(first, second, found, taken)
    if not left or not right:
        return
    contents = [content_of(first[index]) for index in left], [content_of(second[index]) for index in right]
    if not set(contents[0]) & set(contents[1]):
        return
    for start, other, size in SequenceMatcher(None, *contents, autojunk=False).get_matching_blocks():
        found.update({left[start + step]: right[other + step] for step in range(size)})
    left, right = _lonely(first, second, found, taken)
    moved = {content_of(second[index]): index for index in reversed(right)}
    for index in left:
        if (other_index := moved.pop(content_of(first[index]), None)) is not None:
            found[index] = other_index


def add_by_likeness(
    first: Sequence[Cell], second: Sequence[Cell], found: dict[int, int], taken: Collection[int] = ()
) -> None:
    """Only between the same neighbours, where there are any, and not where both have ids, which then say otherwise."""
    left, right = _lonely(first, second, found, taken)
    if len(left) * len(right) > _MOST_PAIRS:
        return
    for index in left:
        low, high = _gap(index, len(first), len(second), found)
        candidates = [other for other in right if low < other < high]
        ratios = {other: _likeness(first[index], second[other]) for other in candidates}
        best = max(candidates, key=ratios.__getitem__, default=-1)
        if best >= 0 and ratios[best] >= _ALIKE:
            found[index] = best
            right.remove(best)


def _lonely(
    first: Sequence[Cell], second: Sequence[Cell], found: Mapping[int, int], taken: Collection[int]
) -> tuple[list[int], list[int]]:
    others = {*found.values(), *taken}
    return (
        [index for index in range(len(first)) if index not in found],
        [index for index in range(len(second)) if index not in others],
    )


def _gap(index: int, length: int, other_length: int, found: Mapping[int, int]) -> tuple[int, int]:
    before = next((found[one] for one in range(index - 1, -1, -1) if one in found), -1)
    after = next((found[one] for one in range(index + 1, length) if one in found), other_length)
    return (before, after) if before < after else (-1, other_length)


def _likeness(one: Cell, other: Cell) -> float:
    texts = one["source"], other["source"]
    are_comparable = one["cell_type"] == other["cell_type"] and not ("id" in one and "id" in other)
    if not are_comparable or not all(texts) or max(map(len, texts)) > _LONGEST:
        return 0.0
    matcher = SequenceMatcher(None, *texts)
    if matcher.real_quick_ratio() < _ALIKE or matcher.quick_ratio() < _ALIKE:
        return 0.0
    return matcher.ratio()
