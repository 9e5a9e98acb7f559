"""What students handed in, on its way from a retrieval into the teacher's graded course: root's side.

A child that is the teacher does the work (filling.py), on what was just published in the teacher's store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from nblauncher.grading import filling
from nblauncher.grading.course_folder import CONFIG, GRADEBOOK
from nblauncher.grading.filling import Order
from nblauncher.model import Account
from nblauncher.system import workers

_LONGEST_LOOK = 60.0
_LONGEST = 1800.0
_AT_A_TIME = 50
"""Students for whom one child works: its answer has room for what any of them can make it say."""


class Course(str, Enum):
    """What is in the folder that the config names as the graded course."""

    NONE = "none"
    READY = "ready"
    LINKED = "linked"
    """`submitted` is a link: the teacher has an arrangement of their own."""


def look(owner: Account, course: Path) -> Course:
    """Whether submissions belong there. HostError when the teacher cannot read the folder."""
    return Course(workers.run_as(owner, _look, course, timeout=_LONGEST_LOOK))


def fill(owner: Account, order: Order) -> Mapping[str, Mapping[str, Any]]:
    """Bring each student's work into `submitted`; answers by username as `filling.fill`. HostError."""
    answers: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(order.students), _AT_A_TIME):
        part = replace(order, students=order.students[start : start + _AT_A_TIME])
        answers |= workers.run_as(owner, filling.fill, part, timeout=_LONGEST)
    return answers


def _look(course: Path) -> str:
    """Runs as the teacher."""
    if not any((course / name).exists() for name in (CONFIG, GRADEBOOK, "source")):
        return str(Course.NONE.value)
    return str((Course.LINKED if (course / "submitted").is_symlink() else Course.READY).value)
