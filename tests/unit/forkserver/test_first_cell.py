"""What a forked kernel has computed before changes nothing of what it shows."""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from nblauncher.forkserver import first_cell
from nblauncher.model import Account
from nblauncher.system.workers import run_as

ME = Account("me", os.geteuid(), os.getegid(), Path("/"))


def module_of_a_frame_in(file: str) -> str | None:
    there: dict[str, Any] = {"sys": sys}
    exec(compile("frame = sys._getframe()", file, "exec"), there)
    module = inspect.getmodule(there["frame"])
    return module.__name__ if module else None


def modules() -> list[str | None]:
    cell = f"{tempfile.gettempdir()}/ipykernel_{os.getpid()}/123.py"
    files = [cell, "/nowhere/at_all.py", json.__file__, f"{tempfile.gettempdir()}/ipykernel_1/123.py"]
    return [*map(module_of_a_frame_in, files), inspect.getmodule(json.dumps).__name__]  # type: ignore[union-attr]


def test_a_cell_is_in_no_module_and_a_file_in_its_own():
    def both() -> list[Any]:
        before = modules()
        first_cell.know_cells()
        return [before, modules()]

    before, after = run_as(ME, both)
    assert before == after == [None, None, "json", None, "json"]


def test_an_error_is_shown_as_before_in_colours_too():
    def both() -> list[str]:
        from IPython.core.ultratb import FormattedTB

        def shown() -> str:
            try:
                raise ValueError("an error")
            except ValueError as error:
                parts = FormattedTB(mode="Context", theme_name="neutral").structured_traceback(
                    type(error), error, error.__traceback__
                )
                return "\n".join(parts)

        before = shown()
        first_cell.rehearse()
        first_cell.know_cells()
        return [before, shown(), shown()]

    before, after, again = run_as(ME, both)
    assert before == after == again and "\x1b[" in before and "an error" in before
