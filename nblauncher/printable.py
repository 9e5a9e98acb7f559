"""Text from outside, made safe to show on a terminal, in a log or in a spreadsheet. Layer 0: everybody may use it."""

from __future__ import annotations

import re
import unicodedata

_FORMULA = re.compile(r"""(?:^|(?<=[,;|\t\n]))(?=[\s"]*[=+\-@＝＋－＠])""")
"""Where a cell begins for some spreadsheet, whichever separator it believes in, and would be calculated."""
_JOINERS = "\u200c\u200d"
"""Invisible, and part of how names are spelled in Persian, Hindi and others."""


def printable(text: str) -> str:
    r"""`text` with everything that is not a visible character or a plain space escaped, as in `\x1b` or `\u202e`.

    Control characters, newlines, direction marks and the lone surrogates of undecodable bytes (os.fsdecode) cannot
    then move the cursor, start a line or reorder what a person reads. Twice is the same as once.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def printable_lines(text: str) -> str:
    """A text of several lines: each is `printable`, and only a newline ends one."""
    return "\n".join(map(printable, text.split("\n")))


def spreadsheet_cell(text: str) -> str:
    """`text` as a cell that no spreadsheet calculates and no terminal obeys; twice is the same as once.

    A part of it that would begin a formula, also after a separator at which some program may split the cell, gets a
    leading apostrophe (OWASP "CSV Injection"). What is not visible is escaped, but for newlines and tabs.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _FORMULA.sub("'", "".join(map(_in_a_cell, text)))


def _in_a_cell(character: str) -> str:
    is_meant = character in "\n\t" or character in _JOINERS or "\udc80" <= character <= "\udcff"
    return character if is_meant or unicodedata.category(character) == "Zs" else _shown(character)
