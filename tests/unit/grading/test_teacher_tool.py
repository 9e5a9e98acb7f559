"""Who may be the teacher of a graded course, and what is said before there is an environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher.errors import RefusedError
from nblauncher.grading import teacher_tool
from nblauncher.model import ROOT


def test_nbgrader_is_never_run_as_root():
    with pytest.raises(RefusedError, match="not run as root"):
        teacher_tool.ask(ROOT, Path("/bin/false"), "release", {}, folder=Path("/"), timeout=1)


def test_before_grade_init_its_name_is_told(tmp_path):
    with pytest.raises(RefusedError) as caught:
        teacher_tool.python_of(tmp_path)
    assert caught.value.hint == "Run `nblauncher grade init` first."
