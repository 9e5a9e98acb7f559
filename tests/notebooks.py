"""Notebooks for tests, in a line or two."""

from __future__ import annotations

import json
from typing import Any


def cell(source: str, name: str = "", kind: str = "code", out: str = "", **metadata: Any) -> dict[str, Any]:
    """A cell; `name` is its id ('' for none), `out` the text of its output."""
    made: dict[str, Any] = {"cell_type": kind, "metadata": metadata, "source": source}
    if name:
        made["id"] = name
    if kind == "code":
        text = {"output_type": "execute_result", "data": {"text/plain": out}, "metadata": {}, "execution_count": 1}
        made |= {"outputs": [text] if out else [], "execution_count": 1 if out else None}
    return made


def notebook(*cells: dict[str, Any], minor: int = 5, **metadata: Any) -> bytes:
    raw = {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": minor}
    return json.dumps(raw, indent=1).encode()


def named(text: str) -> list[dict[str, Any]]:
    """`a=one b=two`: code cells with ids and sources."""
    return [cell(source, name) for name, _, source in (part.partition("=") for part in text.split())]


def cells_of(data: bytes) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(data)["cells"]
    return cells


def sources(data: bytes) -> list[str]:
    return ["".join(one["source"]) for one in cells_of(data)]


def outputs(data: bytes) -> list[str]:
    """The text of each cell's output, '' for none."""
    return ["".join(one["outputs"][0]["data"]["text/plain"]) if one.get("outputs") else "" for one in cells_of(data)]
