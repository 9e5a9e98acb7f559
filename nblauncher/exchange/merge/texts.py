"""Texts, merged by line. A conflict leaves the student's version whole: a half-merged program may not run.

The idea is diff3's (Khanna, Kunal, Pierce: A Formal Investigation of Diff3, 2007): changes of both sides that neither
overlap nor touch are both made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile

from nblauncher.exchange.merge.result import Merged, UnmergeableError

MOST_LINES = 20_000

_Change = tuple[int, int, Sequence[bytes]]
"""Lines from, to (of the base), and the lines that replace them."""


def merge(base: bytes, student: bytes, teacher: bytes) -> Merged:
    """UnmergeableError when both changed the same or adjacent lines, or when it is not a text."""
    if any(b"\0" in version for version in (base, student, teacher)):
        raise UnmergeableError("it is not a text")
    versions = [version.splitlines(keepends=True) for version in (base, student, teacher)]
    if max(map(len, versions)) > MOST_LINES:
        raise UnmergeableError(f"it has more than {MOST_LINES} lines")
    merged = _merged(*versions)
    # Which of several equal lines was changed is a guess: it is not merged if a second run would guess differently.
    if merged is None or _merged(versions[0], merged, versions[2]) != merged:
        raise UnmergeableError("the same lines were edited")
    return Merged(b"".join(merged))


def _merged(base: list[bytes], student: list[bytes], teacher: list[bytes]) -> list[bytes] | None:
    ours, theirs = list(_changes(base, student)), list(_changes(base, teacher))
    result: list[bytes] = []
    done = 0
    while ours or theirs:
        if not theirs or (ours and ours[0][1] < theirs[0][0]):
            first, last, lines = ours.pop(0)
        elif not ours or theirs[0][1] < ours[0][0]:
            first, last, lines = theirs.pop(0)
        elif ours[0] == theirs[0]:
            first, last, lines = ours.pop(0)
            theirs.pop(0)
        else:
            return None
        result += base[done:first]
        result += lines
        done = last
    return result + base[done:]


def _changes(base: list[bytes], other: list[bytes]) -> Iterator[_Change]:
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(base, other, strict=False)))
    left = min(len(base), len(other)) - start
    tails = zip(reversed(base), reversed(other), strict=False)
    end = min(left, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], tails)))
    inner_base, inner_other = base[start : len(base) - end], other[start : len(other) - end]
    for word, i1, i2, j1, j2 in SequenceMatcher(None, inner_base, inner_other, autojunk=False).get_opcodes():
        if word != "equal":
            yield start + i1, start + i2, inner_other[j1:j2]
