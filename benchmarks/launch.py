"""`nblauncher launch` of a class, with servers forked from a preloaded process and with servers that are programs.

    sudo python benchmarks/launch.py [--students 40] [--idle 30]

Wall-clock seconds count from `launch --background` until it returns: every server answered a request over TLS, and so
did the front page. CPU is user + system of the command, the supervisor and everything below it, ended children
included: servers, front page and fork server. Memory is measured `--idle` seconds later: for a server Private_Clean +
Private_Dirty and Pss of smaps_rollup (the median), and the Pss of all processes of the class together. Accounts are
called nbtf000..., and go again with everything they had. `jupyterhub.py` is the counterpart.
"""

from __future__ import annotations

import argparse
import pwd
import statistics
import tempfile
import time
from pathlib import Path

from _shared import forget, measured, memory, nblauncher, processor_seconds, supervisor, tree

COURSE = "nbtf"
FIRST_UID, LAST_UID = 28500, 58999
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
web: {{port: 21300}}
notebook: {{spawner: {spawner}}}
"""


def write_class(folder: Path, names: list[str], spawner: str) -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    (folder / "notebooks.cfg").write_text(CONFIG.format(course=COURSE, first=FIRST_UID, last=LAST_UID, spawner=spawner))


def launched(folder: Path, names: list[str], idle: float) -> tuple[float, float, list[tuple[float, float]], float]:
    """Wall and CPU seconds, memory of each server, and Pss of everything."""
    wall, processor = measured(lambda: nblauncher(folder, "launch", "--background"))
    root = supervisor(COURSE)
    processor += processor_seconds(root)
    time.sleep(idle)
    uids = {pwd.getpwnam(name).pw_uid for name in names}
    everybody = tree(root)
    servers = [memory(process.pid) for process in everybody if process.uids().real in uids]
    return wall, processor, servers, sum(memory(process.pid)[1] for process in everybody)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=40)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds until memory is measured")
    options = parser.parse_args()
    names = [f"nbtf{number:03}" for number in range(options.students)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="nbtf-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            for spawner in ("forkserver", "process"):
                write_class(folder, names, spawner)
                nblauncher(folder, "setup")
                rows.append((spawner, *launched(folder, names, options.idle)))
                nblauncher(folder, "shutdown", "--yes")
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students\n")
    print("| spawner | wall s | CPU s | CPU s each | private MB each | PSS MB each | PSS MB in all |")
    print("|---|---|---|---|---|---|---|")
    for spawner, wall, processor, servers, everything in rows:
        private, proportional = (statistics.median(column) for column in zip(*servers, strict=True))
        each = processor / options.students
        print(f"| {spawner} | {wall:.1f} | {processor:.1f} | {each:.2f} | {private:.1f} | {proportional:.0f} ", end="")
        print(f"| {everything:.0f} |")


if __name__ == "__main__":
    main()
