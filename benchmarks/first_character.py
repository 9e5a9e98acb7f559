"""How long a person waits at a terminal for the first character of each command, and for its end.

    sudo python benchmarks/first_character.py [--students 40] [--times 5]

A class runs. Each command is started on a pseudo-terminal, as a person does: changing ones with --dry-run, each one's
--help, and the completion of a name. The first character may be the line that says what the command is at; the end is
when its answer is there. Medians; CPU (user + system) is that of the command itself up to its first character. Accounts
are called nbtc000..., and go again with everything they had. Prints a Markdown table, the slowest first.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from _shared import forget, nblauncher

from nblauncher.cli.help import SECTIONS

COURSE = "nbtc"
CONFIG = """
course: nbtc
accounts: {uid_range: 27400-27999}
web: {port: 20500}
"""
PROGRAM = str(Path(sys.executable).with_name("nblauncher"))
ASSIGNMENT, ONE = "ps1", "nbtc000"
LINES = {
    "init": ("init", "."),
    "check": ("check",),
    "history": ("history", ONE),
    "restore": ("restore", "--at", "2020-01-01 10:00", ONE, "notes.txt"),
    "extend": ("extend", ONE, "15m"),
    "verify-receipt": ("verify-receipt", "receipt.json"),
    "grade": ("grade", ASSIGNMENT, "--dry-run"),
    "feedback": ("feedback", ASSIGNMENT, "--dry-run"),
    "grades": ("grades",),
    "status": ("status",),
    "deadlines": ("deadlines",),
    "service": ("service", "remove"),
}
"""How a command is called; any other with --dry-run."""


@dataclass(frozen=True)
class Run:
    first: float
    processor: float
    whole: float


def run(folder: Path, arguments: tuple[str, ...], **more: str) -> Run:
    """On a pseudo-terminal of 80 columns."""
    start = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(PROGRAM, [PROGRAM, *arguments], {"PATH": os.environ["PATH"], "TERM": "xterm", **more})
    first = processor = 0.0
    while True:
        select.select([terminal], [], [], 120)
        try:
            content = os.read(terminal, 65536)
        except OSError:  # the command closed its side
            break
        if not first and content.strip():
            first = time.perf_counter() - start
            processor = sum(psutil.Process(pid).cpu_times()[:2])
    os.waitpid(pid, 0)
    os.close(terminal)
    return Run(first, processor, time.perf_counter() - start)


def median(folder: Path, times: int, arguments: tuple[str, ...], **more: str) -> Run:
    runs = [run(folder, arguments, **more) for _ in range(times)]
    return Run(*(statistics.median(getattr(one, part) for one in runs) for part in ("first", "processor", "whole")))


def write_class(folder: Path, names: list[str]) -> None:
    (folder / "material" / ASSIGNMENT).mkdir(parents=True)
    (folder / "material" / ASSIGNMENT / "notes.txt").write_text("read me\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    (folder / "notebooks.cfg").write_text(CONFIG)


def measure(folder: Path, times: int) -> list[tuple[str, Run]]:
    rows = [(line, median(folder, times, (line,))) for line in ("--version", "--help")]
    for name in (name for section in SECTIONS for name in section.commands):
        rows.append((f"{name} --help", median(folder, times, (name, "--help"))))
        rows.append((name, median(folder, times, LINES.get(name, (name, "--dry-run")))))
    typed = {"COMP_WORDS": "nblauncher status --only nbtc00", "COMP_CWORD": "3"}
    rows.append(("completion of a name", median(folder, times, (), _NBLAUNCHER_COMPLETE="bash_complete", **typed)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=40)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    names = [f"nbtc{number:03}" for number in range(options.students)]
    with tempfile.TemporaryDirectory(prefix="nbtc-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        write_class(folder, names)
        try:
            nblauncher(folder, "setup")
            nblauncher(folder, "launch", "--background")
            rows = measure(folder, options.times)
        finally:
            forget(folder, COURSE, names)
    print("| command | first character s | CPU s until then | answer s |\n|---|---|---|---|")
    for what, took in sorted(rows, key=lambda row: -row[1].first):
        print(f"| {what} | {took.first:.2f} | {took.processor:.2f} | {took.whole:.2f} |")


if __name__ == "__main__":
    main()
