"""Read the code of a submission as data. The calling process is the teacher; the files are whatever a student wrote.

Bounded in number, size, depth, memory and time. What is beyond a bound is left out and named.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nblauncher.grading.similarity import tokens
from nblauncher.printable import printable
from nblauncher.system import bounds, files

_MOST_FILES = 200
_MOST_ENTRIES = 5_000
_MOST_BYTES = 25_000_000
"""Of a notebook, most of which is output; all files of a submission may have twice as much."""
_MOST_SOURCE = 1_000_000
"""Of a file that is code alone."""
_MOST_TEXT = 400_000
"""Characters of code in a submission."""
_MOST_CELLS = 2_000
_MEMORY = 400_000_000
_SECONDS = 8.0
_SECONDS_IN_ALL = 20.0
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "timestamp.txt"})
_KEPT_NAMES = re.compile(r"[^.]")
_SOLUTION = re.compile(r"(?ms)^[^\n]*BEGIN (SOLUTION|HIDDEN TESTS).*?(?:END \1[^\n]*|\Z)")


@dataclass(frozen=True, slots=True)
class Part:
    """A code cell, or a file."""

    title: str
    language: str
    text: str


@dataclass(slots=True)
class Reading:
    parts: list[Part] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason."""
    other_kinds: Counter[str] = field(default_factory=Counter)
    """Ends of names that are not read, as `.csv` and `.png` → how many files."""


class _NotRead(Exception):
    """The reason why one file is left out."""


def read(folder: int, *, is_source: bool = False) -> Reading:
    """All code below an open folder. `is_source`: a teacher's source, of which the solutions are not handed out."""
    found = Reading()
    began, size = time.process_time(), 0
    for entry in files.walk(folder, max_depth=12, max_entries=_MOST_ENTRIES, is_left_out=_is_ignored):
        if entry.obstacle:
            found.left_out.append((entry.path, entry.obstacle))
        if entry.obstacle or not entry.is_file or _is_ignored(entry):
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix != ".ipynb" and not tokens.language_of(suffix):
            found.other_kinds[printable(suffix[:20])] += 1
            continue
        size += entry.status.st_size if entry.status else 0
        try:
            _refuse_more(found, size, time.process_time() - began)
            found.parts += _parts(entry, suffix, is_source)
        except _NotRead as why:
            found.left_out.append((entry.path, str(why)))
    _limit_text(found)
    return found


def _is_ignored(entry: files.Entry) -> bool:
    return entry.name in _LEFT_OUT or not _KEPT_NAMES.match(entry.name)


def _refuse_more(found: Reading, size: int, seconds: float) -> None:
    """More than one submission may cost."""
    if len({part.title.partition(":")[0] for part in found.parts}) >= _MOST_FILES:
        raise _NotRead(f"more than {_MOST_FILES} files")
    if size > 2 * _MOST_BYTES:
        raise _NotRead(f"more than {2 * _MOST_BYTES // 1_000_000} MB in all")
    if seconds > _SECONDS_IN_ALL:
        raise _NotRead("the files before it took too long to read")


def _parts(entry: files.Entry, suffix: str, is_source: bool) -> list[Part]:
    is_notebook = suffix == ".ipynb"
    data = _content(entry, _MOST_BYTES if is_notebook else _MOST_SOURCE)
    try:
        with bounds.bounded(seconds=_SECONDS, memory=_MEMORY):
            if is_notebook:
                return list(_cells(entry.path, json.loads(data), is_source))
            text = _plain(data.decode("utf-8", "replace"))
            return [Part(entry.path, tokens.language_of(suffix), _handed_out(text) if is_source else text)]
    except MemoryError:
        raise _NotRead("needs too much memory") from None
    except bounds.TooLongError:
        raise _NotRead("takes too long to read") from None
    except RecursionError:
        raise _NotRead("is nested too deeply") from None
    except ValueError:
        raise _NotRead("is not JSON") from None


def _content(entry: files.Entry, most: int) -> bytes:
    try:
        descriptor, status = files.open_file(entry.name, entry.folder)
    except OSError as error:
        raise _NotRead(files.words_of(error)) from error
    try:
        if status.st_size > most:
            raise _NotRead(f"has more than {most // 1_000_000} MB")
        return b"".join(files.chunks(descriptor, most))
    except OSError as error:
        raise _NotRead(files.words_of(error)) from error
    finally:
        os.close(descriptor)


def _cells(path: str, notebook: Any, is_source: bool) -> Iterator[Part]:
    if not isinstance(notebook, dict):
        raise _NotRead("is not a notebook")
    cells = notebook.get("cells")
    if cells is None:  # nbformat 3
        sheets = notebook.get("worksheets")
        cells = [cell for sheet in _dicts(sheets) for cell in _dicts(sheet.get("cells"))]
    if not isinstance(cells, list) or len(cells) > _MOST_CELLS:
        raise _NotRead(f"has more than {_MOST_CELLS} cells" if isinstance(cells, list) else "is not a notebook")
    language = tokens.language_named(_language(notebook))
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        text = _source(cell.get("source", cell.get("input")))
        if is_source:
            text = "" if _is_whole_solution(cell, text) else _handed_out(text)
        if text.strip():
            yield Part(f"{path}: cell {number}", language, text)


def _dicts(values: object) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for section, key in (("kernelspec", "language"), ("language_info", "name"), ("kernelspec", "name")):
        found = metadata.get(section) if isinstance(metadata, dict) else None
        name = found.get(key) if isinstance(found, dict) else None
        if isinstance(name, str) and name:
            return {"ir": "r", "xpython": "python"}.get(name, name)
    return "python"


def _source(source: object) -> str:
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    return _plain(source) if isinstance(source, str) else ""


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_whole_solution(cell: dict[str, Any], text: str) -> bool:
    """nbgrader replaces such a cell as a whole."""
    metadata = cell.get("metadata")
    about = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return isinstance(about, dict) and bool(about.get("solution")) and "BEGIN SOLUTION" not in text


def _handed_out(text: str) -> str:
    return _SOLUTION.sub("", text)


def _limit_text(found: Reading) -> None:
    """What is beyond the first `_MOST_TEXT` characters goes, cell by cell."""
    total, kept = 0, []
    for part in found.parts:
        total += len(part.text)
        if total > _MOST_TEXT:
            found.left_out.append((part.title, f"more than {_MOST_TEXT:,} characters of code in all"))
            break
        kept.append(part)
    found.parts[:] = kept
