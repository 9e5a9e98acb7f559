"""Compare all submissions with each other. Pure.

A fingerprint weighs the less the more submissions have it: 1 when only two have it, next to 0 when everybody has it,
as the inverse document frequency of text retrieval does. So the common solution of a small task does not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from nblauncher.grading.similarity.submissions import Submission

_LEAST, _MOST = 0.5, 0.85
"""Between these is the score from which on a pair stands out."""
_FEW_PAIRS = 20
_EVIDENCE = 0.75
"""Rare fingerprints that each submission is taken to have besides, so that sharing the only one is not all."""


@dataclass(frozen=True, slots=True)
class Pair:
    """`one_in_other`: which share of one's fingerprints the other has, whatever they weigh."""

    one: Submission
    other: Submission
    score: float
    one_in_other: float
    other_in_one: float


@dataclass(frozen=True, slots=True)
class Comparison:
    pairs: tuple[Pair, ...]
    """Those that share something, best first."""
    clusters: tuple[tuple[str, ...], ...]
    """Usernames that are connected by pairs that stand out; the largest first, then the most alike."""
    having: Mapping[int, int]
    """Fingerprint → how many submissions have it."""
    compared: int
    alike: float
    """The score from which on a pair stands out in this class."""

    @property
    def is_small(self) -> bool:
        """Too small for a statement on what is usual in the class."""
        return self.possible < _FEW_PAIRS

    @property
    def possible(self) -> int:
        """All pairs, also those that share nothing."""
        return self.compared * (self.compared - 1) // 2

    def top(self, share: float) -> float:
        """The score that this share of all pairs has or exceeds."""
        place = int(self.possible * share)
        return self.pairs[place].score if place < len(self.pairs) else 0.0


def compare(submissions: Sequence[Submission]) -> Comparison:
    having = Counter(one for each in submissions for one in each.fingerprints)
    weights = {one: _weight(count, len(submissions)) for one, count in having.items()}
    totals = {each.username: sum(weights[one] for one in each.fingerprints) for each in submissions}
    pairs = []
    for one, other in combinations(submissions, 2):
        shared = one.fingerprints & other.fingerprints
        if shared:
            weight = sum(map(weights.__getitem__, shared))
            shares = [weight / (totals[each.username] + _EVIDENCE) for each in (one, other)]
            own = [len(shared) / len(each.fingerprints) for each in (one, other)]
            pairs.append(Pair(one, other, sum(shares) / 2, *own))
    pairs.sort(key=lambda pair: (-pair.score, pair.one.username, pair.other.username))
    comparison = Comparison(tuple(pairs), (), having, len(submissions), _LEAST)
    alike = _alike(comparison)
    return replace(comparison, alike=alike, clusters=_clusters(pairs, alike))


def _alike(comparison: Comparison) -> float:
    """Half as far again above the best tenth of the pairs as these are above the middle: small tasks make all alike."""
    if comparison.is_small:
        return _LEAST
    tenth = comparison.top(0.1)
    return min(max(tenth + 1.5 * (tenth - comparison.top(0.5)), _LEAST), _MOST)


def _weight(count: int, submissions: int) -> float:
    if count <= 2:
        return 1.0
    return math.log((submissions + 1) / count) / math.log((submissions + 1) / 2)


def _clusters(pairs: Sequence[Pair], alike: float) -> tuple[tuple[str, ...], ...]:
    """Connected components of the pairs that stand out."""
    cluster_of: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.score < alike:
            break
        joined: set[str] = set()
        for name in (pair.one.username, pair.other.username):
            joined |= cluster_of.get(name, {name})
        for name in joined:
            cluster_of[name] = joined
    distinct = dict.fromkeys(tuple(sorted(cluster)) for cluster in cluster_of.values())  # best pair first
    return tuple(sorted(distinct, key=len, reverse=True))
