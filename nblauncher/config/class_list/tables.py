"""The rows of an exported table: CSV in any delimiter and the usual encodings, or a workbook of Excel."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nblauncher.config.class_list import workbook
from nblauncher.config.class_list.workbook import Row
from nblauncher.config.roster import SEPARATOR_LINE, csv_words
from nblauncher.errors import InputError

MOST_ROWS = 20_000
SAVE_AS_CSV = 'Open it in a spreadsheet program and save it as "CSV UTF-8". Nothing was changed.'

_DELIMITERS = ",;\t"
_LOOKED_AT = 20
"""Rows at the beginning, one of which is the header."""
_FOREIGN = {
    b"\xd0\xcf\x11\xe0": "an Excel file of before 2007, or one with a password",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a compressed file",
}


@dataclass(frozen=True, slots=True)
class Table:
    """All rows that are not blank, and the encoding where it was a guess."""

    rows: Sequence[Row]
    guessed: str = ""


def read(data: bytes, source: str, judge: Callable[[Sequence[str]], int]) -> Table:
    """The table in `data`. `judge` says how many known columns a row names: it decides between delimiters.

    InputError when the file cannot be read with certainty, and how to save it instead.
    """
    for beginning, what in _FOREIGN.items():
        if data.startswith(beginning):
            raise InputError(f"{source} is {what}", SAVE_AS_CSV)
    if data.startswith(b"PK"):
        return Table(workbook.rows(data, source, most_rows=MOST_ROWS))
    text, guessed = _decoded(data, source)
    if text.lstrip()[:1] == "<":
        raise InputError(f"{source} is a web page, whatever its name says", SAVE_AS_CSV)
    return Table(_rows(text, source, judge), guessed)


def _decoded(data: bytes, source: str) -> tuple[str, str]:
    """The text, and the encoding's name if it was a guess."""
    codec = _utf16(data)
    if codec:
        try:
            return data.decode(codec).removeprefix("\ufeff"), ""
        except UnicodeDecodeError as error:
            raise InputError(f"{source} byte {error.start + 1}: not UTF-16", SAVE_AS_CSV) from None
    if b"\0" in data:
        raise InputError(f"{source} byte {data.index(0) + 1}: this is not a text file", SAVE_AS_CSV)
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError as error:
        raise InputError(f"{source} byte {error.start + 1}: neither UTF-8 nor Windows-1252", SAVE_AS_CSV) from None


def _utf16(data: bytes) -> str:
    """The codec, from the mark or, without one, from the zeros in every second byte of Latin text."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    sample = data[:2000]
    for codec, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if len(zeros) > 1 and zeros.count(0) > 0.6 * len(zeros):
            return codec
    return ""


def _rows(text: str, source: str, judge: Callable[[Sequence[str]], int]) -> list[Row]:
    named = SEPARATOR_LINE.match(text)
    if named:
        return _split(text[named.end() :], named[1], source)
    return _split(text, max(_DELIMITERS, key=lambda delimiter: _merit(text, delimiter, judge)), source)


def _merit(text: str, delimiter: str, judge: Callable[[Sequence[str]], int]) -> tuple[int, int]:
    """The known columns of the best row at the beginning, then its width."""
    reader = csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=delimiter)
    best = (0, 0)
    try:
        for _number, cells in zip(range(_LOOKED_AT), reader, strict=False):
            best = max(best, (judge(cells), len(cells)))
    except csv.Error:
        return best
    return best


def _split(text: str, delimiter: str, source: str) -> list[Row]:
    """Line numbers count every style of newline. A row that is not CSV is refused: what follows it could be lost."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[Row] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return found
        except csv.Error as error:
            raise InputError(f"{source} line {line}: {csv_words(error)}", "Nothing was changed.") from None
        if any(cell.strip() for cell in cells):
            found.append((line, cells))
        if len(found) > MOST_ROWS:
            raise InputError(f"{source} has more than {MOST_ROWS} rows: is it a class list?", "Nothing was changed.")
