"""What the benchmarks do and measure in the same way."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nblauncher.paths import CoursePaths


def measured(act: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds (user + system, children included) of this process's doing."""
    os.sync()
    before, start = os.times(), time.perf_counter()
    act()
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def tree(root: int) -> list[psutil.Process]:
    """The process and everything below it that runs now."""
    first = psutil.Process(root)
    return [first, *first.children(recursive=True)]


def supervisor(course: str) -> int:
    """The pid of the course's supervisor."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-2:] == ["nblauncher.supervisor", course]:
            return process.pid
    sys.exit("there is no supervisor")


def processor_seconds(root: int) -> float:
    """User + system of the process's whole tree, with those that ended and were waited for."""
    return sum(sum(process.cpu_times()[:4]) for process in tree(root))


def memory(pid: int) -> tuple[float, float]:
    """Private (Private_Clean + Private_Dirty) and proportional (Pss) MB of a process, from smaps_rollup."""
    sizes = {
        line.split(":")[0]: int(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.endswith("kB")
    }
    return (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024, sizes["Pss"] / 1024


def nblauncher(folder: Path, *arguments: str, may_fail: bool = False) -> None:
    """Run a command in the folder of a class."""
    command = [sys.executable, "-I", "-m", "nblauncher", *arguments]
    answer = subprocess.run(
        command, check=False, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if answer.returncode != 0 and not may_fail:
        sys.exit(f"{' '.join(arguments)} failed:\n{answer.stderr}")


def notebook_passwords(folder: Path) -> dict[str, str]:
    with open(folder / "credentials.csv", encoding="utf-8", newline="") as file:
        return {row["username"]: row["notebook_password"] for row in csv.DictReader(file)}


def need(command: str) -> None:
    """End in one line when the other contender is not installed."""
    if shutil.which(command) is None:
        sys.exit(f"{command} is needed for the comparison: install it (apt install {command}) and try again")


def delete(names: list[str]) -> None:
    for name in names:
        subprocess.run(["userdel", "-r", "--", name], check=False, stderr=subprocess.DEVNULL)


def forget(folder: Path, course: str, names: list[str]) -> None:
    """Servers, accounts, group and folders of the class; by force what a failure left."""
    nblauncher(folder, "shutdown", "--yes", may_fail=True)
    nblauncher(folder, "remove", "--yes", may_fail=True)
    delete(names)
    subprocess.run(["groupdel", f"nbl-{course}"], check=False, stderr=subprocess.DEVNULL)
    paths = CoursePaths(course)
    for folder in (paths.state, paths.run, paths.logs):
        subprocess.run(["rm", "-rf", "--one-file-system", "--", str(folder)], check=True)
