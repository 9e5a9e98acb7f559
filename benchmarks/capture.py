"""How long a class stands still at a deadline, and what a snapshot costs, against `rsync -a` of the same homes.

    sudo python benchmarks/capture.py [--students 100] [--files 100] [--megabytes 20] [--changed 5]

Each student has a running server and `--files` files with `--megabytes` MB in all below the material folder. Accounts
are called nbtg000..., and go again with everything they had. The pause is what the command says: from the moment that
everybody is being frozen until everybody goes on, once with `--changed` percent of the files rewritten seconds before
the deadline, after the last early copy, and once with all of them. The files are rewritten by root, in place of the
students. Snapshots: wall and CPU seconds of `nblauncher snapshot`, first, without any change, and with `--changed`
percent changed; beside it `rsync -a` of the same folders to root's, as a home-made script would do it. All caches warm.
"""

from __future__ import annotations

import argparse
import os
import pwd
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from _shared import forget, measured, nblauncher, need

COURSE = "nbtg"
CONFIG = """
course: {course}
accounts: {{uid_range: 40000-58999}}
web: {{port: 23300}}
material: {{source: material, target: tutorial}}
history: {{budget: 20 GB}}
{more}
"""
PAUSE = re.compile(r"stood still for ([0-9.]+) s")


def write_class(folder: Path, names: list[str], more: str = "") -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    (folder / "notebooks.cfg").write_text(CONFIG.format(course=COURSE, more=more))


def work_of(name: str) -> Path:
    return Path(pwd.getpwnam(name).pw_dir) / "tutorial" / "ps1"


def fill(names: list[str], files: int, size: int) -> None:
    for name in names:
        entry = pwd.getpwnam(name)
        work_of(name).mkdir()
        for number in range(files):
            (work_of(name) / f"lab{number}.ipynb").write_bytes(os.urandom(size))
        subprocess.run(["chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", str(work_of(name))], check=True)


def change(names: list[str], percent: float) -> None:
    """Rewrite so many of everybody's files, with the same size."""
    for name in names:
        files = sorted(work_of(name).iterdir())
        for file in random.sample(files, round(len(files) * percent / 100)):
            with file.open("r+b") as stream:
                stream.write(os.urandom(min(4096, file.stat().st_size)))


def captured(folder: Path, names: list[str], percent: float) -> float:
    """The pause of a capture, in seconds."""
    at = (datetime.now().astimezone() + timedelta(seconds=90)).replace(microsecond=0)
    write_class(folder, names, f'deadlines: {{ps1: "{at:%Y-%m-%d %H:%M:%S}"}}')
    nblauncher(folder, "setup")
    command = [sys.executable, "-I", "-m", "nblauncher", "retrieve", "--unattended", COURSE]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while datetime.now().astimezone() < at - timedelta(seconds=9):
        time.sleep(0.2)
    change(names, percent)
    answer, _ = process.communicate()
    found = PAUSE.search(answer)
    if found is None:
        sys.exit(f"nothing was captured:\n{answer}")
    return float(found[1])


def rsync(names: list[str], target: Path) -> None:
    for name in names:
        subprocess.run(["rsync", "-a", f"{work_of(name)}/", f"{target / name}/"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=20, help="of each student")
    parser.add_argument("--changed", type=float, default=5, help="percent")
    options = parser.parse_args()
    need("rsync")
    names = [f"nbtg{number:03}" for number in range(options.students)]
    rows: list[tuple[str, float, float]] = []
    pauses: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="nbtg-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        copies = folder / "copies"
        try:
            write_class(folder, names)
            nblauncher(folder, "setup")
            fill(names, options.files, int(options.megabytes * 1e6) // options.files)
            for label, percent in (
                ("first", 0.0),
                ("nothing changed", 0.0),
                (f"{options.changed:g} % changed", options.changed),
            ):
                if percent:
                    change(names, percent)
                rows.append((f"snapshot, {label}", *measured(lambda: nblauncher(folder, "snapshot"))))
                copies.mkdir(exist_ok=True)
                rows.append((f"rsync -a, {label}", *measured(lambda: rsync(names, copies))))
            shutil.rmtree(copies)
            nblauncher(folder, "launch", "--background")
            pauses = [(percent, captured(folder, names, percent)) for percent in (options.changed, 100.0)]
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students, {options.files} files and {options.megabytes:g} MB each\n")
    print("| what | wall s | CPU s |\n|---|---|---|")
    for label, wall, processor in rows:
        print(f"| {label} | {wall:.2f} | {processor:.2f} |")
    print("\n| changed since the last early copy | everybody stood still for |\n|---|---|")
    for percent, pause in pauses:
        print(f"| {percent:g} % of the files | {pause:.2f} s |")


if __name__ == "__main__":
    main()
