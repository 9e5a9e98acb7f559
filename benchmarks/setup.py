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
import tempfile
from pathlib import Path

from _shared import delete, forget, measured, nblauncher

COURSE = "nbtb"
FIRST_UID, LAST_UID = 29500, 58999
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
material: {{source: material, target: tutorial}}
web: {{port: 21000}}
"""


def bare(names: list[str]) -> None:
    for name in names:
        subprocess.run(["useradd", "-m", "--", name], check=True)
    lines = "".join(f"{name}:{secrets.token_hex(8)}\n" for name in names)
    subprocess.run(["chpasswd"], input=lines, text=True, check=True)


def write_class(folder: Path, names: list[str], files: int) -> None:
    (folder / "material").mkdir()
    for number in range(files):
        (folder / "material" / f"lab{number}.txt").write_bytes(os.urandom(4000))
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    config = CONFIG.format(course=COURSE, first=FIRST_UID, last=LAST_UID)
    (folder / "notebooks.cfg").write_text(config)


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
                (f"nblauncher setup, {options.files} files of material", measured(lambda: nblauncher(folder, "setup"))),
                ("nblauncher setup again, nothing to do", measured(lambda: nblauncher(folder, "setup"))),
            ]
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students\n")
    print("| what | wall s | CPU s | times the bare loop (wall) |\n|---|---|---|---|")
    for what, (wall, processor) in rows:
        print(f"| {what} | {wall:.2f} | {processor:.2f} | {wall / baseline[0]:.2f} |")


if __name__ == "__main__":
    main()
