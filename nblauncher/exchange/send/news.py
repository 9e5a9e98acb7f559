"""The note in the home that says what each delivery changed: Markdown, newest first. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAME = "News from your teacher.md"
"""Below the material folder."""

TITLE = "# News from your teacher\n"
_MOST = 64_000
"""Characters that are kept of earlier news."""


def text(time: str, lines: Sequence[str], earlier: str) -> str:
    """A section with these lines, above the earlier note if it is one."""
    old = earlier.removeprefix(TITLE) if earlier.startswith(TITLE) else ""
    if len(old) > _MOST:
        old = old[: old.rfind("\n## ", 0, _MOST) + 1] if "\n## " in old[:_MOST] else ""
    return "\n".join([f"{TITLE}\n## {time}\n", *(f"- {line}" for line in lines), ""]) + old


def code(path: str) -> str:
    """A path as code (CommonMark: the fence is longer than any run of backticks in it)."""
    runs = re.findall("`+", path)
    fence = "`" * (1 + max(map(len, runs), default=0))
    gap = " " if runs else ""
    return f"{fence}{gap}{path}{gap}{fence}"
