"""Workbooks of Excel as programs write them, made by hand so that a test says what is in them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(rows: Sequence[Sequence[str]], **parts: str) -> bytes:
    """With shared strings, as Excel writes it. `parts` replace parts: sheet, texts, book, relations."""
    texts = [cell for row in rows for cell in row if cell]
    numbers = iter(range(len(texts)))
    body = "".join(
        f'<row r="{line}">'
        + "".join(
            f'<c r="{chr(65 + column)}{line}" t="s"><v>{next(numbers)}</v></c>'
            for column, cell in enumerate(row)
            if cell
        )
        + "</row>"
        for line, row in enumerate(rows, start=1)
    )
    return zipped(
        {
            "sheet": f'<worksheet xmlns="{MAIN}"><sheetData>{body}</sheetData></worksheet>',
            "texts": f'<sst xmlns="{MAIN}">{"".join(f"<si><t>{escape(text)}</t></si>" for text in texts)}</sst>',
            **parts,
        }
    )


def zipped(parts: Mapping[str, str]) -> bytes:
    whole = {
        "book": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>'
        '<sheet name="old" sheetId="1" state="hidden" r:id="rId9"/><sheet name="Class" sheetId="2" r:id="rId1"/>'
        "</sheets></workbook>",
        "relations": "<Relationships>"
        f'<Relationship Id="rId1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{OFFICE}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        **parts,
    }
    names = {
        "book": "xl/workbook.xml",
        "relations": "xl/_rels/workbook.xml.rels",
        "sheet": "xl/worksheets/sheet1.xml",
        "texts": "xl/sharedStrings.xml",
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, text in whole.items():
            archive.writestr(names.get(part, part), text)
    return stream.getvalue()


def sheet(body: str) -> str:
    return f'<worksheet xmlns="{MAIN}"><sheetData>{body}</sheetData></worksheet>'
