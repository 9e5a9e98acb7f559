"""One HTML page that needs nothing else: pairs, clusters, and the best pairs side by side. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import jinja2

from nblauncher.grading.similarity.comparing import Comparison, Pair
from nblauncher.grading.similarity.passages import Passage, passages
from nblauncher.grading.similarity.submissions import HandedOut, Submission
from nblauncher.printable import printable

_HERE = Path(__file__).parent
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
MOST_PAIRS = 100
MOST_SHOWN = 25
"""Pairs with their text."""
_MOST_LINES = 1_500
_MOST_CHARACTERS = 150_000
_WIDEST = 2_000
"""Of one side of a pair."""
_BINS = 20
_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says besides the comparison."""

    title: str
    made_at: datetime
    left_out: Sequence[tuple[str, str, str]]
    """Student, file and reason."""
    other_kinds: Sequence[tuple[str, int]]
    """Ends of names that have no code, and how many files have them."""
    notes: Sequence[str]
    missing: Sequence[str]
    """Students without a submission."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A passage on one side. `target` is its anchor on the other side."""

    number: int
    anchor: str
    target: str
    colour: int
    is_common: bool
    words: str


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    mark: Mark | None
    is_first: bool


@dataclass(frozen=True, slots=True)
class Block:
    """A cell or file, line by line."""

    title: str
    lines: tuple[tuple[Segment, ...], ...]


@dataclass(frozen=True, slots=True)
class Side:
    username: str
    blocks: tuple[Block, ...]
    is_cut: bool


def page(comparison: Comparison, handed_out: HandedOut, facts: Facts) -> str:
    shown = [pair for pair in comparison.pairs[:MOST_SHOWN] if pair.score > 0]
    style = (_HERE / "page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    listed = comparison.pairs[:MOST_PAIRS]
    cluster_of = {name: number for number, names in enumerate(comparison.clusters, 1) for name in names}
    return _TEMPLATES.get_template("page.html").render(
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        facts=facts,
        comparison=comparison,
        bars=_bars(comparison),
        listed=listed,
        shown=len(shown),
        alike=sum(1 for pair in comparison.pairs if pair.score >= comparison.alike),
        threshold=comparison.alike,
        clusters=[(names, _inside(comparison, names)) for names in comparison.clusters],
        cluster_of=cluster_of,
        details=_details(shown, comparison, handed_out),
    )


def _details(
    pairs: Sequence[Pair], comparison: Comparison, handed_out: HandedOut
) -> Iterator[tuple[int, Pair, tuple[Side, Side], Sequence[Mark]]]:
    """Number, pair, both sides, and the marks of the left one. One pair at a time, to save memory."""
    for number, pair in enumerate(pairs, start=1):
        found = passages(pair.one, pair.other, handed_out.grams, comparison.having)
        marks = [
            _marks(number, index, passage, pair, comparison.compared) for index, passage in enumerate(found, start=1)
        ]
        left = _side(pair.one, [(one.one_start, one.length, mark) for one, (mark, _) in zip(found, marks, strict=True)])
        right = _side(
            pair.other, [(one.other_start, one.length, mark) for one, (_, mark) in zip(found, marks, strict=True)]
        )
        yield number, pair, (left, right), [mark for mark, _ in marks]


def _marks(pair_number: int, number: int, passage: Passage, pair: Pair, compared: int) -> tuple[Mark, Mark]:
    """Both ends of a passage."""
    first = pair.one.text.count("\n", 0, pair.one.tokens.starts[passage.one_start])
    last = pair.one.text.count("\n", 0, pair.one.tokens.ends[passage.one_start + passage.length - 1])
    lines = last - first + 1
    others = f"also in {passage.others} other submissions" if passage.others else "in no other submission"
    if passage.others == 1:
        others = "also in 1 other submission"
    words = f"{lines} line{'' if lines == 1 else 's'}, {others}"
    anchors = [f"pair-{pair_number}-{side}-{number}" for side in "ab"]
    is_common = passage.others > max(1, compared // 20)
    return (
        Mark(number, anchors[0], anchors[1], number % _COLOURS, is_common, words),
        Mark(number, anchors[1], anchors[0], number % _COLOURS, is_common, words),
    )


def _side(one: Submission, marked: Sequence[tuple[int, int, Mark]]) -> Side:
    spans = sorted(
        (one.tokens.starts[start], one.tokens.ends[start + length - 1], mark) for start, length, mark in marked
    )
    pieces = _pieces(one.text, spans)
    bounds = [*(section.start for section in one.sections), len(one.text)]
    blocks: list[list[tuple[Segment, ...]]] = [[] for _ in one.sections]
    line: list[Segment] = []
    count = characters = 0
    for start, segment in pieces:
        characters += len(segment.text)
        if segment.text == "\n":
            blocks[bisect_right(bounds, start) - 1].append(tuple(line))
            line = []
            count += 1
            if count >= _MOST_LINES or characters >= _MOST_CHARACTERS:
                break
        elif len(line) < _WIDEST // 10:
            line.append(segment)
    titled = zip(one.sections, blocks, strict=True)
    found = tuple(Block(printable(section.title), tuple(lines)) for section, lines in titled if lines)
    return Side(one.username, found, count >= _MOST_LINES or characters >= _MOST_CHARACTERS)


def _pieces(text: str, spans: Sequence[tuple[int, int, Mark]]) -> Iterator[tuple[int, Segment]]:
    """The text cut at line ends and at the ends of passages; a line end is a piece of its own."""
    at = 0
    for start, end, mark in spans:
        yield from _cut(text, at, start, None)
        yield from _cut(text, start, end, mark)
        at = end
    yield from _cut(text, at, len(text), None)


def _cut(text: str, start: int, end: int, mark: Mark | None) -> Iterator[tuple[int, Segment]]:
    is_first = True
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        if stop > start:
            # Tabs are no surprise in code; anything else that is invisible is shown, or it could reorder what one sees.
            plain = text[start : min(stop, start + _WIDEST)].replace("\t", "    ")
            inner = plain.lstrip(" ") if not is_first else plain
            if indent := plain[: len(plain) - len(inner)]:
                yield start, Segment(indent, None, False)
            if inner:
                yield start, Segment(printable(inner), mark, is_first)
                is_first = False
        if stop < end:
            yield stop, Segment("\n", None, False)
        start = stop + 1


def _inside(comparison: Comparison, names: Sequence[str]) -> tuple[float, float]:
    """The lowest and the highest score of the pairs of a cluster that stand out."""
    members = set(names)
    scores = []
    for pair in comparison.pairs:
        if pair.score < comparison.alike:
            break
        if pair.one.username in members:
            scores.append(pair.score)
    return min(scores), max(scores)


@dataclass(frozen=True, slots=True)
class Bar:
    low: int
    high: int
    count: int
    height: int
    is_alike: bool


def _bars(comparison: Comparison) -> Sequence[Bar]:
    """How many pairs have which score; heights are logarithms, or the few that matter could not be seen."""
    counts = [0] * _BINS
    for pair in comparison.pairs:
        counts[min(int(pair.score * _BINS), _BINS - 1)] += 1
    counts[0] += comparison.possible - len(comparison.pairs)
    highest = math.log1p(max(counts)) or 1.0
    edges = pairwise(round(100 * one / _BINS) for one in range(_BINS + 1))
    return [
        Bar(low, high, count, round(90 * math.log1p(count) / highest), low >= 100 * comparison.alike)
        for (low, high), count in zip(edges, counts, strict=True)
    ]
