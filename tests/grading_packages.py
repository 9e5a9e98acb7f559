"""The packages that grade, installed once for the tests of a process: `grade init` takes minutes without them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.graded import Graded
from tests.packages import alone

_KEPT = os.environ.get("NBLAUNCHER_TESTS_GRADING")
"""A folder where they are kept for later test runs. By default they end with the run."""

_made: list[tempfile.TemporaryDirectory[str]] = []


def install(course: Graded) -> None:
    """`grade init`, with the packages that an earlier test has installed."""
    if not _KEPT and not _made:
        _made.append(tempfile.TemporaryDirectory(prefix="nblauncher-tests-"))
    kept = Path(_KEPT or _made[0].name, "grading")
    there = course.room.paths.grading_environments
    if kept.is_dir():
        _copy(kept, there)
    with alone():
        course.room.sudo("grade", "init")
    if not kept.is_dir():
        _copy(there, kept)


def _copy(source: Path, target: Path) -> None:
    """The programs of an environment name its Python by its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--", str(source), str(target)], check=True)
    for program in target.glob("*/bin/*"):
        if program.is_file() and not program.is_symlink():
            text = program.read_bytes()
            program.write_bytes(text.replace(os.fsencode(source), os.fsencode(target)))
