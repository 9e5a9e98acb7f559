"""The pages of feedback in the teacher's folder, as the teacher's process answered (`teacher_side/feedback.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nblauncher.errors import HostError
from nblauncher.exchange import rows
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.system import files

_FACTS = 3


@dataclass(frozen=True, slots=True)
class Pages:
    """One student's, below the folder of the assignment; `error` says why there are none."""

    items: tuple[Item, ...]
    error: str = ""
    is_waiting: bool = False
    """Whether a person must still grade some of it."""


def from_answer(answer: Any, assignment: str) -> Mapping[str, Pages]:
    """By username; the items' paths begin with the assignment. HostError unless it is what the verb answers."""
    if not isinstance(answer, dict):
        raise _malformed()
    return {
        rows.text(row, "student"): Pages(
            tuple(_item(one, assignment) for one in _list(row.get("files"))),
            rows.text(row, "error"),
            rows.truth(row, "waiting"),
        )
        for row in rows.objects(answer.get("students"))
    }


def _item(facts: Any, assignment: str) -> Item:
    if len(_list(facts)) != _FACTS:
        raise _malformed()
    row = dict(zip(("path", "size", "sha256"), facts, strict=True))
    if "/" in rows.text(row, "path"):
        raise _malformed()
    return Item.from_row({**row, "path": files.join(assignment, row["path"]), "stamp": (0, 0, 0, 0)})


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed()
    return value


def _malformed() -> HostError:
    return HostError("what nbgrader answered is malformed")
