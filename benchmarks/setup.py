"""`nblauncher setup` of a class with material, against the system's own tools for the same names in the same run.

    sudo python benchmarks/setup.py [--students 200] [--files 20]

The bare loop is `useradd -m` for each name plus one `chpasswd` for all. Accounts are called nbtb000..., and go again
with everything they had. Prints a Markdown table: wall-clock and CPU seconds (user + system, children included).
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nblauncher.course import CoursePaths

COURSE = "nbtb"
FIRST_UID = 29500
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
material: {{source: material, target: tutorial}}
web: {{port: 21000}}
"""


def measured(act: Callable[[], object]) -> tuple[float, float]:
    os.sync()
    before, start = os.times(), time.perf_counter()
    act()
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def bare(names: list[str]) -> None:
    for name in names:
        subprocess.run(["useradd", "-m", "--", name], check=True)
    lines = "".join(f"{name}:{secrets.token_hex(8)}\n" for name in names)
    subprocess.run(["chpasswd"], input=lines, text=True, check=True)


def ours(folder: Path) -> None:
    command = [sys.executable, "-I", "-m", "nblauncher", "-c", str(folder / "notebooks.cfg"), "setup"]
    answer = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        sys.exit(f"setup failed:\n{answer.stderr}")


def delete(names: list[str]) -> None:
    for name in names:
        subprocess.run(["userdel", "-r", "--", name], check=False, stderr=subprocess.DEVNULL)


def write_class(folder: Path, names: list[str], files: int) -> None:
    (folder / "material").mkdir()
    for number in range(files):
        (folder / "material" / f"lab{number}.txt").write_bytes(os.urandom(4000))
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    config = CONFIG.format(course=COURSE, first=FIRST_UID, last=FIRST_UID + 2 * len(names))
    (folder / "notebooks.cfg").write_text(config)


def forget(names: list[str]) -> None:
    """Accounts, group and folders of the class."""
    delete(names)
    subprocess.run(["groupdel", f"nbl-{COURSE}"], check=False, stderr=subprocess.DEVNULL)
    paths = CoursePaths(COURSE)
    for folder in (paths.state, paths.run, paths.logs):
        subprocess.run(["rm", "-rf", "--one-file-system", "--", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--files", type=int, default=20)
    options = parser.parse_args()
    names = [f"nbtb{number:03}" for number in range(options.students)]
    with tempfile.TemporaryDirectory(prefix="nbtb-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        write_class(folder, names, options.files)
        try:
            baseline = measured(lambda: bare(names))
            delete(names)
            rows = [
                ("useradd -m loop + one chpasswd", baseline),
                (f"nblauncher setup, {options.files} files of material", measured(lambda: ours(folder))),
                ("nblauncher setup again, nothing to do", measured(lambda: ours(folder))),
            ]
        finally:
            forget(names)
    print(f"{options.students} students\n")
    print("| what | wall s | CPU s | times the bare loop (wall) |\n|---|---|---|---|")
    for what, (wall, processor) in rows:
        print(f"| {what} | {wall:.2f} | {processor:.2f} | {wall / baseline[0]:.2f} |")


if __name__ == "__main__":
    main()
