"""What is on a slip. Every text from outside passes through `on_paper`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nblauncher.auth.texts import Texts
from nblauncher.model import Secret

SECTION, SEAT, NAME = ORDERS = ("section", "seat", "name")

NO_SECRET = Secret("")
_JOINERS = "\u200c\u200d"
"""Invisible, but part of names in Persian and Hindi, and of emoji."""
_FLAG_LETTERS = range(0xE0020, 0xE0080)
_MOST_MARKS = 6
"""Above or below one letter. More of them run over the lines around."""
_LONGEST = 300
_UNREADABLE = "\ufffd"


@dataclass(frozen=True, slots=True)
class Course:
    """What all slips of a course have in common."""

    name: str
    front_page: str
    fingerprint: str = ""
    """Of the class CA, `AB:CD:…`; empty where browsers need none."""
    title: str = ""
    """As the teacher calls the class; empty: its name."""
    texts: Texts = Texts()  # noqa: RUF009 — frozen
    """In the class's language."""

    @property
    def heading(self) -> str:
        return self.title or self.name

    @property
    def certificate_page(self) -> str:
        return f"{self.front_page}ca.html" if self.fingerprint else ""


@dataclass(frozen=True, slots=True)
class Slip:
    """One student's. `url` is the student's own address of the front page."""

    username: str
    name: str
    url: str
    email: str = ""
    section: str = ""
    seat: str = ""
    deadlines: tuple[tuple[str, str], ...] = ()
    """The next ones that are the student's own: folder and time, in the class's words."""
    later: int = 0
    """How many more there are."""
    notebook_password: Secret = field(default=NO_SECRET, repr=False)
    """Empty if it is not known."""
    system_password: Secret = field(default=NO_SECRET, repr=False)
    keeps_system_password: bool = False
    """The student has one already, from before the class or from another one."""

    @property
    def shown_name(self) -> str:
        return on_paper(self.name) or self.username

    @property
    def shown_section(self) -> str:
        return on_paper(self.section)

    @property
    def shown_seat(self) -> str:
        return on_paper(self.seat)


@dataclass(frozen=True, slots=True)
class Group:
    """The slips of a section, on pages of their own. Without a title: all of them."""

    title: str
    slips: tuple[Slip, ...]


def on_paper(text: str) -> str:
    """`text` in one line, as it can be printed: no control characters, nothing that reorders what is beside it, and of
    marks on one letter no more than any script has.
    """
    shown: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        category = unicodedata.category(character)
        if category in ("Mn", "Me"):
            marks += 1
            if marks > _MOST_MARKS:
                continue
        elif character not in _JOINERS:
            marks = 0
        if category == "Cf" and character not in _JOINERS and ord(character) not in _FLAG_LETTERS:
            continue
        shown.append(_UNREADABLE if category in ("Cc", "Cs", "Cn", "Co") else character)
    line = "".join(shown).strip()
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def arranged(slips: Iterable[Slip], order: str) -> tuple[Group, ...]:
    """The cards in the order in which they are handed out."""
    if order == SECTION:
        titles = sorted({slip.shown_section for slip in slips}, key=_natural)
        return tuple(
            Group(title, tuple(sorted((slip for slip in slips if slip.shown_section == title), key=_by_name)))
            for title in titles
        )
    key = _by_name if order == NAME else lambda slip: (not slip.shown_seat, *_natural(slip.shown_seat), _by_name(slip))
    return (Group("", tuple(sorted(slips, key=key))),)


def usual_order(slips: Sequence[Slip]) -> str:
    return SECTION if any(slip.shown_section for slip in slips) else NAME


def _by_name(slip: Slip) -> tuple[str, str]:
    return unicodedata.normalize("NFKD", slip.shown_name).casefold(), slip.username


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A2 before A10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)
