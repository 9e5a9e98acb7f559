"""How long `nblauncher status` takes for a large class that runs, and what `status --watch` costs.

    sudo python benchmarks/status.py [--students 200] [--looks 7] [--seconds 30]

Makes a class of accounts nbtk000..., launches all servers, and removes everything again. Prints a Markdown table: the
command as it is typed (the median of `--looks`, its start included), the look alone in a process that has started
already (the first, and a later one), and the share of a processor that a live table, and the supervisor because of it,
take over `--seconds`. Of the commands also the CPU-seconds, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import signal
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil
from _shared import forget, measured, nblauncher, supervisor

from nblauncher.commands import session
from nblauncher.commands.running import status

COURSE = "nbtk"
FIRST_UID, LAST_UID = 58000, 58999
PORT = 20600
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
web: {{port: {port}}}
"""


def write_class(folder: Path, names: list[str]) -> None:
    (folder / "material").mkdir()
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    text = CONFIG.format(course=COURSE, first=FIRST_UID, last=LAST_UID, port=PORT)
    (folder / "notebooks.cfg").write_text(text)


def timed_looks(folder: Path, names: list[str]) -> tuple[float, float]:
    """The first look, and the median of ten later ones, which know the ledgers' facts already."""
    opened = session.open_session(session.caller_now(), folder / "notebooks.cfg", (), needs_roster=False)
    host = opened.host
    meter = status.meter_of(host)
    now = datetime.now().astimezone()
    begun = time.perf_counter()
    facts = status.gather(host, now)
    status.look(host, names, now, facts=facts, meter=meter)
    first, later = time.perf_counter() - begun, []
    for _ in range(10):
        begun = time.perf_counter()
        status.look(host, names, now, facts=facts, meter=meter)
        later.append(time.perf_counter() - begun)
    return first, statistics.median(later)


def watched(folder: Path, seconds: float) -> tuple[float, float]:
    """CPU of the live table and of the supervisor in percent of a processor, once the first table is there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-I", "-m", "nblauncher", "status", "--watch"])
    processes = [psutil.Process(pid), psutil.Process(supervisor(COURSE))]
    drain(terminal, 6)
    before = [sum(process.cpu_times()[:2]) for process in processes]
    drain(terminal, seconds)
    after = [sum(process.cpu_times()[:2]) for process in processes]
    os.kill(pid, signal.SIGTERM)
    drain(terminal, 1)
    os.waitpid(pid, 0)
    watcher, other = (100 * (then - now) / seconds for now, then in zip(before, after, strict=True))
    return watcher, other


def drain(terminal: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                os.read(terminal, 65536)
            except OSError:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--looks", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    names = [f"nbtk{number:03}" for number in range(options.students)]
    with tempfile.TemporaryDirectory(prefix="nbtk-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            write_class(folder, names)
            nblauncher(folder, "setup")
            nblauncher(folder, "launch", "--background")
            started = [measured(lambda: nblauncher(folder, "--version")) for _ in range(options.looks)]
            commands = [measured(lambda: nblauncher(folder, "status", "--json")) for _ in range(options.looks)]
            first, later = timed_looks(folder, names)
            watcher, other = watched(folder, options.seconds)
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} students, all servers run\n")
    print("| what | | CPU |\n|---|---|---|")
    for words, taken in (("`nblauncher status`", commands), ("`nblauncher --version`, which only starts", started)):
        wall, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"| {words} | {wall:.2f} s | {cpu:.2f} s |")
    print(f"| the look alone, the first | {first:.2f} s | |")
    print(f"| a later look | {later:.3f} s | |")
    print(f"| `status --watch` | {watcher:.1f} % of a processor | |")
    print(f"| the supervisor meanwhile | {other:.1f} % | |")


if __name__ == "__main__":
    main()
