"""The texts of the first visible sheet of an Excel workbook (.xlsx, ECMA-376): its cells as a CSV would have them.

A formula is the value that was saved with it. What is read of the archive is bounded by what its directory says, and
the XML may define no entities; the caller bounds time and memory (nblauncher.system.bounds).
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import IO, Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from nblauncher.errors import InputError

Row = tuple[int, list[str]]
"""The line or row number, and its cells."""

_HINT = 'Save it as "CSV UTF-8" in a spreadsheet program. Nothing was changed.'
_MOST_PARTS = 2000
_MOST_BYTES = 64_000_000
"""Of one part of the archive, unpacked."""
_MOST_COLUMNS = 2000
_MOST_CELLS = 1_000_000


def rows(data: bytes, source: str, *, most_rows: int) -> list[Row]:
    """The rows that are not blank. InputError when it is not a workbook that can be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = _Parts(archive, source)
            sheet, texts = parts.sheet_and_texts()
            return _bounded(_sheet_rows(parts, sheet, texts), source, most_rows)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise InputError(f"{source} is not a workbook that can be read: {error}", _HINT) from None
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise InputError(f"{source} is a damaged workbook: {error}", _HINT) from None


class _Parts:
    """The parts of the archive by name."""

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self.archive = archive
        self.source = source
        self.by_name = {info.filename: info for info in archive.infolist()}
        if "xl/workbook.xml" not in self.by_name:
            raise InputError(f"{source} is not an Excel workbook (.xlsx)", _HINT)
        if len(self.by_name) > _MOST_PARTS:
            raise InputError(f"{source} has more than {_MOST_PARTS} parts", _HINT)

    def open(self, name: str) -> IO[bytes]:
        part = self.by_name[name]
        if part.file_size > _MOST_BYTES or part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.source} is larger inside than a class list can be", _HINT)
        return self.archive.open(part)

    def elements(self, name: str, *tags: str) -> Iterator[Element]:
        """The elements of these names, each emptied afterwards."""
        with self.open(name) as stream:
            for _event, element in defusedxml.ElementTree.iterparse(stream, forbid_dtd=True):
                if _tag(element) in tags:
                    yield element
                    element.clear()

    def sheet_and_texts(self) -> tuple[str, Sequence[str]]:
        """The name of the first visible sheet's part, and the texts that cells share."""
        targets: dict[str, str] = {}
        shared = ""
        if (relations := "xl/_rels/workbook.xml.rels") in self.by_name:
            for one in self.elements(relations, "Relationship"):
                target = posixpath.normpath(posixpath.join("/xl", one.get("Target", ""))).lstrip("/")
                targets[one.get("Id", "")] = target
                shared = target if one.get("Type", "").endswith("/sharedStrings") else shared
        sheets = [
            targets.get(next((value for key, value in one.items() if key.endswith("}id")), ""), "")
            for one in self.elements("xl/workbook.xml", "sheet")
            if one.get("state", "visible") == "visible"
        ]
        sheet = next((name for name in sheets if name in self.by_name), "")
        if not sheet:
            raise InputError(f"{self.source} has no sheet that is visible", _HINT)
        return sheet, [_text(one) for one in self.elements(shared, "si")] if shared in self.by_name else []


def _sheet_rows(parts: _Parts, sheet: str, texts: Sequence[str]) -> Iterator[Row]:
    number = 0
    for row in parts.elements(sheet, "row"):
        number = int(row.get("r") or number + 1)
        cells: dict[int, str] = {}
        column = -1
        for cell in row:
            column = _column(cell.get("r"), column + 1)
            text = _value(cell, texts)
            if text.strip() and column < _MOST_COLUMNS:
                cells[column] = text
        if cells:
            yield number, [cells.get(column, "") for column in range(max(cells) + 1)]


def _bounded(found: Iterator[Row], source: str, most_rows: int) -> list[Row]:
    kept: list[Row] = []
    count = 0
    for row in found:
        kept.append(row)
        count += len(row[1])
        if len(kept) > most_rows or count > _MOST_CELLS:
            raise InputError(f"{source} has more cells than a class list can have", _HINT)
    return kept


def _column(reference: str | None, following: int) -> int:
    """C7 is column 2. Cells without a reference follow each other."""
    letters = re.match(r"[A-Z]{1,3}", reference or "")
    if not letters:
        return following
    number = 0
    for letter in letters[0]:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: Element, texts: Sequence[str]) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return "".join(_text(one) for one in cell if _tag(one) == "is")
    raw = next((one.text or "" for one in cell if _tag(one) == "v"), "")
    if kind == "s":
        index = int(raw) if re.fullmatch(r"[0-9]{1,9}", raw) else len(texts)
        return texts[index] if index < len(texts) else ""
    if kind == "e":
        return ""
    return _number(raw) if kind == "n" else raw


def _number(raw: str) -> str:
    """4711023 also where the file says 4.711023E6: it is somebody's student number."""
    try:
        value = Decimal(raw)
    except InvalidOperation:
        return raw
    if value.is_finite() and abs(value.adjusted()) < 20 and value == value.to_integral_value():
        return str(int(value))
    return raw


def _text(element: Element) -> str:
    """Of plain and rich text, without the phonetic guides of Japanese."""
    found: list[str] = []
    for one in element:
        if _tag(one) == "t":
            found.append(one.text or "")
        elif _tag(one) == "r":
            found.append(_text(one))
    return "".join(found)


def _tag(element: Any) -> str:
    """Without the namespace: strict workbooks have another one."""
    return str(element.tag).rpartition("}")[2]
