"""Make text from outside safe for a terminal, a log or a spreadsheet."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_FORMULA = re.compile(r"""(?:^|(?<=[,;|\t\n]))(?=[\s"]*[=+\-@＝＋－＠])""")
"""Where a spreadsheet, with any separator, would see the beginning of a formula."""
_SPLITS = re.compile(r"""[,;|"\s]""")
_JOINERS = "\u200c\u200d"
"""Invisible, but part of names in Persian, Hindi and other languages."""


def printable(text: str) -> str:
    r"""`text` with everything that is not a visible character or a plain space escaped, as in `\x1b` or `\u202e`.

    Control characters, newlines, direction marks and the lone surrogates of undecodable bytes (os.fsdecode) cannot
    then move the cursor, start a line or reorder the text. It is idempotent.
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
    """`text` as a cell that no spreadsheet calculates and no terminal interprets. It is idempotent.

    A part that would begin a formula, also after a separator at which a program may split the cell, gets a leading
    apostrophe (OWASP "CSV Injection"). Invisible characters are escaped, except newlines and tabs.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _FORMULA.sub("'", "".join(map(_in_a_cell, text)))


def spreadsheet_line(cells: Iterable[str]) -> str:
    """A line of a CSV file. A cell that a program might split, with any separator, is quoted."""
    quoted = ('"' + cell.replace('"', '""') + '"' if _SPLITS.search(cell) else cell for cell in cells)
    return ",".join(quoted) + "\r\n"


def _in_a_cell(character: str) -> str:
    is_meant = character in "\n\t" or character in _JOINERS or "\udc80" <= character <= "\udcff"
    return character if is_meant or unicodedata.category(character) == "Zs" else _shown(character)
