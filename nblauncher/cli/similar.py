"""The pairs of `grade ASSIGNMENT --similar` as text. Returns strings and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nblauncher.cli import render
from nblauncher.printable import printable

_MOST = 10


def text(page: Path, rows: Sequence[Mapping[str, Any]], notes: Sequence[str], width: int) -> str:
    """The ten best pairs, what was not compared, and where the page is."""
    lines = [
        (
            row["one"],
            row["other"],
            _percent(row["score"]),
            f"{_percent(row['one_in_other'])} %",
            f"{_percent(row['other_in_one'])} %",
        )
        for row in rows[:_MOST]
    ]
    table = render.table(("A", "B", "score", "A in B", "B in A"), lines, width)
    parts = [table if lines else "No two submissions share a passage that was not handed out."]
    parts += [f"Note: {printable(note)}" for note in notes]
    parts.append(
        f"{printable(str(page))} has {'all pairs' if lines else 'the details'}. It is not proof: ask the students."
    )
    return "\n".join(parts)


def _percent(share: float) -> int:
    return round(100 * share)
