"""What a terminal shows while a command works, and a pipe does not. On real pseudo-terminals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

NBLAUNCHER = Path(sys.executable).with_name("nblauncher")
REWRITE = "\r\x1b[K"

SLOW = """
import time
from nblauncher.cli import terminal
with terminal.progress(4) as shown:
    shown.begins("create account ada")
    shown.is_done("create account ada", 1, 4)
    shown.begins("start 40 servers \\x1b[31m" + "x" * 300)
    shown.tells("eve: ready", 20, 40)
    if {seconds}:
        shown.begins("build packages")
    time.sleep({seconds})
terminal.story("done.")
"""


def on_terminal(*command: str | Path, columns: int = 80, **more: str) -> str:
    """Everything that it writes."""
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "LC_ALL": "C.UTF-8", **more}
    program, *arguments = map(str, command)
    child = pexpect.spawn(program, arguments, env=environment, dimensions=(24, columns), encoding="utf-8", timeout=60)
    child.expect(pexpect.EOF)
    child.close()
    return str(child.before)


def slow(columns: int = 80, seconds: float = 0, **more: str) -> str:
    return on_terminal(sys.executable, "-I", "-c", SLOW.format(seconds=seconds), columns=columns, **more)


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_one_line_is_rewritten_that_says_the_step_and_its_share_and_never_wraps(columns: int) -> None:
    shown = slow(columns).split(REWRITE)
    assert shown[0] == "" and shown[-1] == "done.\r\n"
    assert all(len(one) < columns and "\n" not in one and "\x1b" not in one for one in shown[:-1])
    assert shown[1] == "[....................] 0/4 create account ada"[: columns - 1]
    step = "start 40 servers \\x1b[31m" + "x" * 300
    assert shown[-2] == f"[#######.............] 1/4 {step}: 20 of 40"[: columns - 1]  # half a step counts half


def test_what_stands_still_says_for_how_long() -> None:
    assert re.search(r"build packages \([1-9] s\)", slow(seconds=2.2))


def test_a_terminal_that_cannot_rewrite_and_a_pipe_get_a_line_for_each_step() -> None:
    lines = ["[1/4] create account ada", "[1/4] eve: ready", "done."]
    assert slow(TERM="dumb").splitlines() == lines
    done = subprocess.run(
        [sys.executable, "-I", "-c", SLOW.format(seconds=0)], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == lines


def test_a_command_says_at_once_what_it_does_and_leaves_only_its_answer(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    subprocess.run([NBLAUNCHER, "init", tmp_path / "optics"], env=environment, capture_output=True, check=True)
    config = tmp_path / "optics" / "notebooks.cfg"
    parts = on_terminal(NBLAUNCHER, "-c", config, "setup", "--dry-run").split(REWRITE)
    assert parts[:4] == ["", "setup ...", "setup: reading the config", "setup: looking at the host"]
    assert parts[-1].startswith("setup would")
    piped = subprocess.run(
        [NBLAUNCHER, "-c", config, "setup", "--dry-run"], env=environment, capture_output=True, text=True, check=True
    )
    assert piped.stdout.startswith("setup would") and piped.stderr == ""


def test_a_terminal_that_was_stopped_does_not_stop_the_work(tmp_path: Path) -> None:
    """Ctrl-S, in the middle of a step; what a command prints otherwise waits, as everywhere."""
    program = SLOW.format(seconds=1.2).replace("terminal.story", "open('finished', 'w'); terminal.story")
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    child = pexpect.spawn(sys.executable, ["-I", "-c", program], env=environment, cwd=str(tmp_path), timeout=60)
    child.expect("build packages")
    child.send("\x13")
    deadline = time.monotonic() + 30
    while not (tmp_path / "finished").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "finished").exists()
    child.send("\x11")
    child.expect("done.")
    child.expect(pexpect.EOF)
    child.close()


def test_colours_are_for_terminals_and_not_where_they_are_not_wanted(tmp_path: Path) -> None:
    command = (NBLAUNCHER, "-c", tmp_path / "missing.cfg", "send")
    assert "\x1b[1;31mError:\x1b[0m" in on_terminal(*command)
    assert "\x1b[1" not in on_terminal(*command, NO_COLOR="1") and "Error:" in on_terminal(*command, NO_COLOR="1")
    piped = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert piped.stderr.startswith("Error:") and "\x1b" not in piped.stderr + piped.stdout
