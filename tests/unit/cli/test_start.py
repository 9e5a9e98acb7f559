"""What is imported before the first character: a terminal waits for all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED_WITH_EVERY_COMMAND = {"cli", "system", "model", "errors", "printable", "paths", "__main__"}
"""Rooms and ground modules."""
SLOW_PARTS_OF_PYTHON = {
    *("asyncio", "email", "http", "multiprocessing", "sqlite3", "ssl", "subprocess", "tempfile", "xml"),
}

RUN = """
import sys
before = set(sys.modules)
import atexit
atexit.register(lambda: print(*sorted(set(sys.modules) - before), file=sys.stderr))
from nblauncher.__main__ import main
main()
"""


def loaded(*arguments: str) -> set[str]:
    """The modules that a command line loads."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize("line", ["--version", "--help", "status --help"])
def test_help_loads_the_command_line_and_nothing_that_a_command_works_with(line: str) -> None:
    """`--help` loads the modules of all commands: what they need besides, they import in their functions."""
    modules = loaded(*line.split())
    own = {name.split(".")[1] for name in modules if name.startswith("nblauncher.")}
    assert own - LOADED_WITH_EVERY_COMMAND == set()
    others = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert others - {"nblauncher", "click"} == set()
    assert modules & SLOW_PARTS_OF_PYTHON == set()


def test_a_commands_help_loads_no_other_command() -> None:
    modules = loaded("grade", "--help")
    assert "nblauncher.cli.grading" in modules and "nblauncher.cli.history" not in modules
