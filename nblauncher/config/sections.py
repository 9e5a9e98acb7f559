"""The sections of a roster: which students `--section` means. Pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator

from nblauncher.errors import InputError
from nblauncher.model import Roster
from nblauncher.printable import printable

_MOST_SHOWN = 20


def members(roster: Roster, given: Iterable[str]) -> frozenset[str]:
    """The usernames of the students in these sections. Each of `given` is a section or, where no section is called so,
    several with commas between them. InputError for an unknown section.
    """
    sections: dict[str, set[str]] = {}
    shown: dict[str, str] = {}
    for student in roster:
        for section in _sections_of(student.section):
            sections.setdefault(_folded(section), set()).add(student.username)
            shown.setdefault(_folded(section), section)
    wanted = [part for text in given for part in ([text] if _folded(text) in sections else text.split(","))]
    unknown = [part for part in wanted if part.strip() and _folded(part) not in sections]
    if unknown:
        raise InputError([_unknown(part, list(shown.values())) for part in unknown], "Nothing was changed.")
    return frozenset().union(*(sections[_folded(part)] for part in wanted if part.strip()))


def _sections_of(cell: str) -> Iterator[str]:
    """All of the cell, and what commas or semicolons in it separate: a student may be in several groups."""
    yield from filter(None, dict.fromkeys(part.strip() for part in (cell, *re.split(r"[,;]", cell))))


def _unknown(part: str, sections: list[str]) -> str:
    what = f'--section: no student of the roster is in "{printable(part.strip())}"'
    if not sections:
        return f"{what}: its column section is empty or missing"
    near = difflib.get_close_matches(part.strip(), sections, 1, 0.6)
    if near:
        return f'{what}; did you mean "{printable(near[0])}"?'
    named = ", ".join(f'"{printable(one)}"' for one in sorted(sections)[:_MOST_SHOWN])
    return f"{what}; there are {named}{' and more' if len(sections) > _MOST_SHOWN else ''}"


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
