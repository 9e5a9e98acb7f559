"""What nbgrader says when it refuses something, without what it says each time. Pure."""

from __future__ import annotations

import re

_MOST = 1500
_ALWAYS = ("There was an error processing assignment", "Please see the", "Traceback")
_NOTEBOOK = re.compile(r"Converting notebook .*/([^/]+\.ipynb)\s*$")
_RECORD = re.compile(r"^\[(\w+)\] ", re.M)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*): (.*)", re.S)


def words(log: str, error: str) -> str:
    """The messages of a captured log (`[LEVEL] message`) that are errors, with the notebook that they are about; of a
    traceback its last line.
    """
    found: list[str] = []
    notebook = ""
    parts = _RECORD.split(log)
    for level, message in zip(parts[1::2], parts[2::2], strict=True):
        if match := _NOTEBOOK.match(message):
            notebook = f"{match[1]}: "
        elif level in ("ERROR", "CRITICAL"):
            text = _plain(message)
            if text and not text.startswith(_ALWAYS) and not any(text in other for other in found):
                found.append(notebook + text)
    return "; ".join(found or [_plain(error) or "it does not say why"])[:_MOST]


def _plain(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    if any(line.startswith("Traceback") for line in lines):
        match = _EXCEPTION.match(lines[-1])
        return match[2] if match else lines[-1]
    return " ".join(lines)
