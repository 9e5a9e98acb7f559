"""A submission without what was handed out: its text, tokens and fingerprints. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nblauncher.grading.similarity import winnowing
from nblauncher.grading.similarity.reading import Part
from nblauncher.grading.similarity.tokens import Tokens, tokens_of


@dataclass(frozen=True, slots=True)
class Section:
    """A cell or file; its text begins at `start` of the submission's."""

    title: str
    start: int


@dataclass(frozen=True, slots=True)
class Submission:
    username: str
    text: str
    sections: tuple[Section, ...]
    tokens: Tokens
    ends: tuple[int, ...]
    """Where each cell or file ends, in tokens."""
    fingerprints: frozenset[int]
    lines: int
    """With something on them."""


@dataclass(frozen=True, slots=True)
class HandedOut:
    """What every student was given, and what therefore says nothing."""

    parts: frozenset[str] = frozenset()
    grams: frozenset[int] = frozenset()

    @classmethod
    def of(cls, parts: Iterable[Part]) -> HandedOut:
        known = list(parts)
        codes = _joined(known).tokens.codes
        return cls(frozenset(part.text.strip() for part in known), frozenset(winnowing.grams(codes)))


def submission(username: str, parts: Sequence[Part], handed_out: HandedOut) -> Submission:
    """Cells and files that are as they were handed out are left out; in the others the passages that were."""
    own = [part for part in parts if part.text.strip() not in handed_out.parts]
    joined = _joined(own)
    prints = [
        winnowing.fingerprints(winnowing.grams(codes), handed_out.grams)
        for codes in _sequences(joined.tokens, joined.ends)
    ]
    lines = sum(1 for line in joined.text.split("\n") if line.strip())
    return Submission(
        username, joined.text, joined.sections, joined.tokens, joined.ends, frozenset().union(*prints), lines
    )


def _sequences(tokens: Tokens, ends: Sequence[int]) -> Iterator[Sequence[int]]:
    """Each cell or file on its own, so that their order does not matter; those too short for a gram sorted, in one."""
    short: list[array[int]] = []
    for start, end in pairwise([0, *ends]):
        if end - start >= winnowing.GRAM:
            yield tokens.codes[start:end]
        else:
            short.append(tokens.codes[start:end])
    yield [code for cell in sorted(short) for code in cell]


@dataclass(frozen=True, slots=True)
class _Joined:
    """The cells and files one after the other. `ends`: where each ends, in tokens."""

    text: str
    tokens: Tokens
    sections: tuple[Section, ...]
    ends: tuple[int, ...]


def _joined(parts: Sequence[Part]) -> _Joined:
    tokens, sections, texts, start, ends = Tokens.none(), [], [], 0, []
    for part in parts:
        text = part.text.rstrip() + "\n"
        tokens.extend(tokens_of(text, part.language), start)
        ends.append(len(tokens.codes))
        sections.append(Section(part.title, start))
        texts.append(text)
        start += len(text)
    return _Joined("".join(texts), tokens, tuple(sections), tuple(ends))
