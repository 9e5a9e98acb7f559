"""Fingerprints of a sequence of tokens. Pure.

S. Schleimer, D. Wilkerson, A. Aiken: "Winnowing: local algorithms for document fingerprinting", SIGMOD 2003. Of every
`WINDOW` grams that follow each other the one with the least hash is kept: two texts that share GRAM + WINDOW - 1 tokens
in a row share a fingerprint, wherever the tokens are, and what is shorter than GRAM tokens is never found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

GRAM = 12
WINDOW = 5


def grams(codes: Sequence[int]) -> list[int]:
    """The hash of each `GRAM` tokens that follow each other. Hashes of integers are the same in every process."""
    return list(map(hash, zip(*(codes[start:] for start in range(GRAM)), strict=False)))


def fingerprints(hashes: Sequence[int], given: Collection[int]) -> frozenset[int]:
    """Without the grams in `given`: these were handed out."""
    own = [one for one in hashes if one not in given]
    if len(own) <= WINDOW:
        return frozenset(own[:1] and [min(own)])
    return frozenset(map(min, zip(*(own[start:] for start in range(WINDOW)), strict=False)))
