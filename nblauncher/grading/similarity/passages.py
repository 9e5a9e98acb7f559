"""Which passages two submissions share. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import and_

from nblauncher.grading.similarity import winnowing
from nblauncher.grading.similarity.submissions import Submission

_MOST_PLACES = 24
"""Places of the same gram that are tried: repetition must not cost its square."""
_MOST_PASSAGES = 300
_FIRST_WORDS = 40
_MOST_WORK = 1_000_000
"""Tokens that are compared for a pair."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens `one_start` to `one_start + length` of one submission are those from `other_start` of the other."""

    one_start: int
    other_start: int
    length: int
    others: int
    """Further submissions that have the rarest of its fingerprints."""


def passages(
    one: Submission, other: Submission, given: Collection[int], having: Mapping[int, int]
) -> tuple[Passage, ...]:
    """In the order of `one`. The longest are found first, each token is in one passage at most, and each passage is
    within a cell or file. What was handed out begins and ends none.
    """
    grams = winnowing.grams(one.tokens.codes)
    free_one, free_other = bytearray(b"\1" * len(one.tokens.codes)), bytearray(b"\1" * len(other.tokens.codes))
    found: list[Passage] = []
    for length, _, start, place in sorted(_matches(one, other, grams, given), reverse=True):
        for begin, end in _free(free_one[start : start + length], free_other[place : place + length]):
            while end - begin >= winnowing.GRAM and grams[start + end - winnowing.GRAM] in given:
                end -= 1
            while end - begin >= winnowing.GRAM and grams[start + begin] in given:
                begin += 1
            size = end - begin
            if size >= winnowing.GRAM and len(found) < _MOST_PASSAGES:
                mine, theirs = start + begin, place + begin
                free_one[mine : mine + size] = free_other[theirs : theirs + size] = bytes(size)
                found.append(Passage(mine, theirs, size, _others(grams, mine, size, having)))
    return tuple(sorted(found, key=lambda passage: passage.one_start))


def _matches(
    one: Submission, other: Submission, grams: Sequence[int], given: Collection[int]
) -> Iterator[tuple[int, int, int, int]]:
    """Length, how many tokens are the same words, and both places of every run of equal tokens that is not longer."""
    mine, theirs = one.tokens.codes, other.tokens.codes
    places: dict[int, list[int]] = {}
    for place, gram in enumerate(winnowing.grams(theirs)):
        if gram not in given and len(known := places.setdefault(gram, [])) < _MOST_PLACES:
            known.append(place)
    begins_one, begins_other = {0, *one.ends}, {0, *other.ends}
    work = 0
    for start, gram in enumerate(grams):
        before = places.get(grams[start - 1], ()) if start else ()
        for place in places.get(gram, ()):
            if start not in begins_one and place not in begins_other and place - 1 in before:
                continue
            most = min(_end(one, start) - start, _end(other, place) - place)
            length = 0
            while length < most and mine[start + length] == theirs[place + length]:
                length += 1
            if length >= winnowing.GRAM:
                yield length, _same_words(one, other, start, place, length), start, place
            if (work := work + length) > _MOST_WORK:
                return


def _same_words(one: Submission, other: Submission, start: int, place: int, length: int) -> int:
    """Tells equally long runs apart, `mean(3)` from `total(4)`."""
    return sum(
        one.text[one.tokens.starts[start + step] : one.tokens.ends[start + step]]
        == other.text[other.tokens.starts[place + step] : other.tokens.ends[place + step]]
        for step in range(min(length, _FIRST_WORDS))
    )


def _end(submission: Submission, token: int) -> int:
    """Where the cell or file of a token ends."""
    return submission.ends[bisect_right(submission.ends, token)]


def _free(one: bytearray, other: bytearray) -> Iterator[tuple[int, int]]:
    """Runs in which the tokens of both sides are in no passage yet."""
    both = bytes(map(and_, one, other))
    begin = both.find(1)
    while begin >= 0:
        end = both.find(0, begin)
        end = len(both) if end < 0 else end
        yield begin, end
        begin = both.find(1, end)


def _others(grams: Sequence[int], start: int, length: int, having: Mapping[int, int]) -> int:
    counts = [having[gram] for gram in grams[start : start + length - winnowing.GRAM + 1] if gram in having]
    return max(min(counts, default=2) - 2, 0)
