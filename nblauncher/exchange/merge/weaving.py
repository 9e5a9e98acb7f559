"""Combines two orders of cells into one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Key = tuple[str, int]
"""The version of a cell, "student" or "teacher", and its index there."""


def woven(first: Sequence[Key], second: Sequence[Key], behind: Collection[Key] = ()) -> list[Key]:
    """`first`, and what only `second` has: each after its nearest predecessor there, and after those `behind` it."""
    result = list(first)
    known = set(first)
    before: list[Key] = []
    for key in second:
        if key not in known:
            place = result.index(before[-1]) + 1 if before else 0
            while before and place < len(result) and result[place] in behind:
                place += 1
            result.insert(place, key)
        before.append(key)
    return result
