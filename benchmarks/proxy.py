"""Requests through the class's nginx against straight to the students' servers, at fifty concurrent clients.

    sudo python benchmarks/proxy.py [--students 4] [--seconds 10] [--connections 50] [--rounds 3]

`wrk` keeps the connections open and asks all servers for `/api` at the same time, over TLS, first in a class with the
front end `direct`, then with `nginx` (routing ports), in turns. Told are answers per second of all servers together,
the median and 99th percentile of wrk's latency (the mean over the servers), and CPU milliseconds of the class's
processes for each answer. wrk's own CPU is not counted, but shares the machine. Accounts are called nbtg000...
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from _shared import forget, nblauncher, need, processor_seconds, supervisor

COURSE = "nbtg"
FIRST_UID = 27000
PORT = 21600
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def write_class(folder: Path, names: list[str], frontend: str) -> None:
    (folder / "material").mkdir(exist_ok=True)
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    config = f"course: {COURSE}\naccounts: {{uid_range: {FIRST_UID}-58999}}\n"
    config += f"web: {{port: {PORT}, frontend: {frontend}}}\nlimits: {{cpus: none}}\n"
    (folder / "notebooks.cfg").write_text(config)


def asked(names: list[str], seconds: float, connections: int) -> tuple[float, float, float]:
    """Answers per second, and milliseconds of the median and of the 99th percentile."""
    each = max(1, connections // len(names))
    tool = ["wrk", "-t1", f"-c{each}", f"-d{seconds:.0f}s", "--latency"]
    running = [
        subprocess.Popen(
            [*tool, f"https://127.0.0.1:{PORT + 1 + number}/user/{name}/api"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, name in enumerate(names)
    ]
    said = [one.communicate()[0] for one in running]
    if any("Non-2xx" in words for words in said):
        raise SystemExit(f"not every answer was good:\n{said}")
    rates = [float(_found(r"Requests/sec:\s+([\d.]+)", words)[1]) for words in said]
    return sum(rates), _mean(said, "50%"), _mean(said, "99%")


def _mean(said: list[str], percent: str) -> float:
    found = [_found(rf"{percent}\s+([\d.]+)(us|ms|s)", words) for words in said]
    return statistics.mean(float(one[1]) * _UNITS[one[2]] for one in found)


def _found(pattern: str, words: str) -> re.Match[str]:
    match = re.search(pattern, words)
    if match is None:
        raise SystemExit(f"wrk did not say {pattern}:\n{words}")
    return match


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    need("wrk")
    need("nginx")
    names = [f"nbtg{number:03}" for number in range(options.students)]
    rows: dict[str, list[tuple[float, float, float, float]]] = {"direct": [], "nginx": []}
    with tempfile.TemporaryDirectory(prefix="nbtg-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        try:
            write_class(folder, names, "direct")
            nblauncher(folder, "setup")
            for _ in range(options.rounds):
                for frontend, found in rows.items():
                    write_class(folder, names, frontend)
                    nblauncher(folder, "launch", "--background")
                    asked(names, 2, options.connections)
                    root = supervisor(COURSE)
                    before = processor_seconds(root)
                    begun = time.monotonic()
                    rate, median, late = asked(names, options.seconds, options.connections)
                    used = processor_seconds(root) - before
                    found.append((rate, median, late, 1000 * used / (rate * (time.monotonic() - begun))))
                    nblauncher(folder, "shutdown", "--yes")
        finally:
            forget(folder, COURSE, names)
    print(f"{options.students} servers, {options.connections} connections, medians of {options.rounds} rounds\n")
    print("| front end | answers/s | median ms | 99 % ms | CPU ms each |\n|---|---|---|---|---|")
    for frontend, found in rows.items():
        rate, median, late, each = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {frontend} | {rate:.0f} | {median:.1f} | {late:.1f} | {each:.2f} |")


if __name__ == "__main__":
    main()
