"""A notebook as merging needs it: valid, format 4, texts as strings, and unique ids if any.

What Jupyter upgrades when it opens a file is upgraded here too, so that both are the same notebook.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from nblauncher.system import late_grammar  # noqa: F401 — before jsonschema

# isort: split
import nbformat

from nblauncher.exchange.merge.matching import Cell
from nblauncher.exchange.merge.result import UnmergeableError
from nblauncher.printable import printable

WITH_IDS = 5
"""The minor version of format 4 since which every cell has an id (JEP 62)."""
_MOST_CELLS = 5000
_LONGEST_WORDS = 120
_TEXT = "text/plain"
_WRITTEN_AS_LINES = ("application/javascript", "image/svg+xml")
"""Besides text/*: see nbformat.v4.rwbase."""


@dataclass(frozen=True, slots=True)
class Notebook:
    raw: dict[str, Any]

    @property
    def cells(self) -> list[Cell]:
        cells: list[Cell] = self.raw["cells"]
        return cells

    @property
    def minor(self) -> int:
        return int(self.raw["nbformat_minor"])


def load() -> None:
    """Compile the schemas."""
    for minor in range(WITH_IDS + 1):
        _validator(minor)


def read(data: bytes, version: str) -> Notebook:
    """UnmergeableError, in words about `version`, when it is not a valid notebook of format 4.

    A cell without an id, or with that of an earlier cell, gets none: Jupyter invents one at each first save, which does
    not identify the cell.
    """
    try:
        raw = json.loads(data)
    except ValueError:
        raise UnmergeableError(f"{version} is not a notebook") from None
    raw = _repaired(_upgraded(raw))
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list) or raw.get("nbformat") != 4:
        raise UnmergeableError(f"{version} is not a notebook of format 4")
    if len(raw["cells"]) > _MOST_CELLS or not all(isinstance(cell, dict) for cell in raw["cells"]):
        raise UnmergeableError(f"{version} has more than {_MOST_CELLS} cells, or no cells")
    notebook = Notebook(raw)
    invented = _identify(notebook)
    check(notebook, f"{version} is not a valid notebook")
    for cell in notebook.cells:
        _change_texts(cell, _joined)
        if cell.get("id") in invented:
            del cell["id"]
    return notebook


def what_is_wrong(data: bytes) -> str:
    """Why Jupyter would not open this as a notebook, in words for its author; '' when it would."""
    if marker := re.search(rb"^(<<<<<<<|>>>>>>>) ", data, re.M):
        return f"line {data[: marker.start()].count(10) + 1} is a merge marker"
    try:
        raw = _upgraded(json.loads(data))
    except json.JSONDecodeError as error:
        return f"line {error.lineno} is not JSON: {error.msg}"
    except (ValueError, RecursionError):
        return "it is not JSON in UTF-8"
    if not isinstance(raw, dict) or raw.get("nbformat") != 4:
        return "it is not a notebook of format 4, nor one that can be upgraded to it"
    if not isinstance(cells := raw.get("cells"), list) or not all(isinstance(cell, dict) for cell in cells):
        return "it has no list of cells"
    minor = raw.get("nbformat_minor")
    if not isinstance(minor, int) or not 0 <= minor < 100:
        return "its nbformat_minor is missing or not a number"
    _identify(Notebook(raw))
    known = min(minor, WITH_IDS)
    try:
        _validator(known).validate({**raw, "nbformat_minor": known})
    except nbformat.ValidationError as error:
        return _lacking(raw) or printable(str(error).partition("\n")[0][:_LONGEST_WORDS])
    return ""


def _lacking(raw: dict[str, Any]) -> str:
    """The first keys that are missing, '' for none."""
    if "metadata" not in raw:
        return "it has no metadata"
    for number, cell in enumerate(raw["cells"], 1):
        needed = ("metadata", "source", *(("outputs", "execution_count") if cell.get("cell_type") == "code" else ()))
        if lacking := [key for key in needed if key not in cell]:
            return f"cell {number} has no {' and no '.join(lacking)}"
    return ""


def _upgraded(raw: Any) -> Any:
    """The notebook as Jupyter upgrades it from an earlier format, without the random ids."""
    if not isinstance(raw, dict) or raw.get("nbformat") not in (2, 3):
        return raw
    sheets = raw.get("worksheets")
    if not isinstance(sheets, list) or not all(isinstance(sheet, dict) for sheet in sheets):
        return raw
    if sum(len(sheet.get("cells") or ()) for sheet in sheets) > _MOST_CELLS:
        return raw
    try:
        # Through JSON: nbformat returns its own types.
        upgraded = json.loads(json.dumps(nbformat.convert(nbformat.from_dict(raw), 4)))  # type: ignore[no-untyped-call]
    except (AttributeError, LookupError, TypeError, ValueError, nbformat.ValidationError):
        return raw
    upgraded["nbformat_minor"] = WITH_IDS - 1
    for key in ("orig_nbformat", "orig_nbformat_minor"):
        upgraded["metadata"].pop(key, None)
    for cell in upgraded["cells"]:
        cell.pop("id", None)
    return upgraded


def _repaired(raw: Any) -> Any:
    """With the empty keys that a tool left out."""
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list):
        return raw
    raw.setdefault("metadata", {})
    for cell in raw["cells"]:
        if isinstance(cell, dict):
            cell.setdefault("metadata", {})
            if cell.get("cell_type") == "code":
                cell.setdefault("outputs", [])
                cell.setdefault("execution_count", None)
    return raw


def check(notebook: Notebook, words: str) -> None:
    """UnmergeableError(words) unless nbformat's schema is met.

    A minor version that nbformat does not know is checked as the last one that it does: nbformat itself would accept
    unknown kinds of cells, which we could not merge.
    """
    minor = notebook.raw.get("nbformat_minor")
    if not isinstance(minor, int) or not 0 <= minor < 100:
        raise UnmergeableError(words)
    try:
        _validator(min(minor, WITH_IDS)).validate({**notebook.raw, "nbformat_minor": min(minor, WITH_IDS)})
    except nbformat.ValidationError:
        raise UnmergeableError(words) from None


def are_equal(one: Notebook, other: Notebook) -> bool:
    """Whether they are the same except for ids that only `one` has."""
    if len(one.cells) != len(other.cells):
        return False
    cells = [
        {key: value for key, value in cell.items() if key != "id" or "id" in twin}
        for cell, twin in zip(one.cells, other.cells, strict=True)
    ]
    return {**one.raw, "cells": cells} == other.raw


def _validator(minor: int) -> Any:
    return nbformat.validator.get_validator(4, minor)  # type: ignore[no-untyped-call]


def written(notebook: Notebook) -> bytes:
    """As Jupyter writes it: a line of text per line of the file."""
    cells = [dict(cell) for cell in notebook.cells]
    for cell in cells:
        _change_texts(cell, _split)
    raw = {**notebook.raw, "cells": cells}
    try:
        return (json.dumps(raw, indent=1, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        return (json.dumps(raw, indent=1) + "\n").encode()


def free_id(seed: str, taken: Collection[str]) -> str:
    """An id derived from the seed, so that merging twice gives the same cells."""
    for number in range(len(taken) + 1):
        name = hashlib.sha256(f"{number}:{seed}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
        if name not in taken:
            break
    return name


def _identify(notebook: Notebook) -> frozenset[str]:
    """Derive an id for each cell that has none, or an earlier cell's, from its content; returns the derived ids."""
    taken: set[str] = set()
    invented: set[str] = set()
    own = {cell["id"] for cell in notebook.cells if isinstance(cell.get("id"), str)}
    minor = notebook.raw.get("nbformat_minor")
    for cell in notebook.cells:
        if not isinstance(minor, int) or minor < WITH_IDS:
            cell.pop("id", None)
            continue
        if not isinstance(cell.get("id"), str) or cell["id"] in taken:
            cell["id"] = free_id(repr((cell.get("cell_type"), cell.get("source"))), taken | own)
            invented.add(cell["id"])
        taken.add(cell["id"])
    return frozenset(invented)


def _change_texts(cell: Cell, change: Callable[[str, Any], Any]) -> None:
    """Change what Jupyter writes as lists of lines, by MIME type. Containers are copied, not changed."""
    cell["source"] = change(_TEXT, cell["source"])
    if "outputs" in cell:
        cell["outputs"] = [_changed_output(output, change) for output in cell["outputs"]]
    if "attachments" in cell:
        cell["attachments"] = {name: _changed_bundle(bundle, change) for name, bundle in cell["attachments"].items()}


def _changed_output(output: dict[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    if output["output_type"] == "stream":
        return {**output, "text": change(_TEXT, output["text"])}
    return {**output, "data": _changed_bundle(output["data"], change)} if "data" in output else output


def _changed_bundle(bundle: dict[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    return {kind: change(kind, data) for kind, data in bundle.items()}


def _joined(kind: str, text: Any) -> Any:
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return text if is_json or not isinstance(text, list) else "".join(text)


def _split(kind: str, text: Any) -> Any:
    is_lines = isinstance(text, str) and (kind.startswith("text/") or kind in _WRITTEN_AS_LINES)
    return text.splitlines(keepends=True) if is_lines else text
