"""The course does not end while somebody grades it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher.commands.grading import locks
from nblauncher.errors import BusyError
from nblauncher.ledger.locks import locked


def test_a_course_is_in_use_as_long_as_a_lock_of_grading_is_held(tmp_path: Path):
    serving, grading = tmp_path / "serve.lock", tmp_path / "grading.lock"
    locks.refuse_in_use("waves", serving, grading)
    assert list(tmp_path.iterdir()) == []
    for file, words in ((serving, "the formgrader of course waves is open"), (grading, "course waves is being graded")):
        with locked(file, "it"), pytest.raises(BusyError, match=words):
            locks.refuse_in_use("waves", serving, grading)
        locks.refuse_in_use("waves", serving, grading)
