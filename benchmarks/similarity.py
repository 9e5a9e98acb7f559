"""Comparing the submissions of a class: does it find planted copies, and what does it cost?

    python benchmarks/similarity.py [--students 200] [--keep FOLDER]

Needs no root. Makes 200 submissions of two notebooks with ten tasks, solved in four styles with small differences, and
replaces three by copies of others: renamed, reordered, other comments (benchmarks/_similar_class.py). Prints at which
place the copies are among all pairs, the best honest pair, seconds, CPU seconds, and the most memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
from pathlib import Path

import _similar_class
from _shared import measured

from nblauncher.grading.similarity import report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep the course with its page in this new folder")
    options = parser.parse_args()
    course = options.keep or Path(tempfile.mkdtemp(prefix="similarity-"))
    names = [f"student{number:03}" for number in range(options.students)]
    planted = {frozenset(pair) for pair in _similar_class.make(course, names, seed=options.seed)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said: dict[str, object] = {}
    wall, cpu = measured(lambda: said.update(report.report(str(course), "ps1", names, "benchmark, ps1")))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = said["pairs"]
    assert isinstance(rows, list)
    places = [place for place, row in enumerate(rows, 1) if {row["one"], row["other"]} in planted]
    honest = max(row["score"] for row in rows if {row["one"], row["other"]} not in planted)
    copied = min((rows[place - 1]["score"] for place in places), default=0)
    size = (course / "similar/ps1.html").stat().st_size / 1e6
    print(
        "| submissions | places of the copies | their least score | best other pair | wall s | CPU s | MB | page MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    shown = ", ".join(map(str, places))
    memory = f"{most:.0f} ({before:.0f} before)"
    print(f"| {len(names)} | {shown} | {copied:.2f} | {honest:.2f} | {wall:.1f} | {cpu:.1f} | {memory} | {size:.1f} |")
    if not options.keep:
        shutil.rmtree(course)


if __name__ == "__main__":
    main()
