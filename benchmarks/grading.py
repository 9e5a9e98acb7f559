"""Grading a class with `nblauncher grade`, against plain `nbgrader autograde` in the same run.

    sudo python benchmarks/grading.py [--students 40] [--runs 1] [--environment FOLDER] [--keep]

The course is that of `nbgrader quickstart`, two notebooks a submission. Both sides grade the same submissions with the
same nbgrader, each in a course folder of its own, one after the other in each run; nbgrader runs as the teacher. Both
have graded another student's submission before, so that files are in the page cache and what kernels load is known.
Then both make the feedback; ours also puts it into the homes. Wall-clock and CPU seconds (user + system) are those of
the command and of all processes that it started and waited for, the median of the runs. Scores are compared cell by
cell. `--environment` is a copy of `/opt/nblauncher/courses/COURSE+grading` of another class, instead of packages from
PyPI. Accounts are called nbtu..., and go again with all they had.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import random
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _shared import forget, nblauncher

from nblauncher.environments import course_packages
from nblauncher.model import Account
from nblauncher.paths import CoursePaths
from nblauncher.system import workers

COURSE, ASSIGNMENT, TEACHER = "nbtu", "ps1", "nbtuteacher"
FIRST_UID, PORT = 26300, 21980
CONFIG = f"""
course: {COURSE}
owner: {TEACHER}
accounts: {{uid_range: {FIRST_UID}-{FIRST_UID + 180}}}
web: {{port: {PORT}}}
notebook: {{preload: [numpy]}}
"""
GOOD = {
    "squares": "def squares(n):\n    if n < 1:\n        raise ValueError\n    return [i ** 2 for i in range(1, n + 1)]",
    "sum_of_squares": "def sum_of_squares(n):\n    return sum(squares(n))",
}
BAD = {
    "squares": "def squares(n):\n    return [i * i for i in range(1, n + 1)]",
    "sum_of_squares": "def sum_of_squares(n):\n    return sum(i * i for i in range(n + 1))",
}
SCORES = """
SELECT submitted_assignment.student_id, notebook.name, base_cell.name, grade.auto_score, grade.needs_manual_grade
FROM grade JOIN base_cell ON base_cell.id = grade.cell_id JOIN notebook ON notebook.id = base_cell.notebook_id
JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
"""


@dataclass
class Times:
    """Of one side's doing, a number for each run."""

    walls: list[float] = field(default_factory=list)
    processors: list[float] = field(default_factory=list)

    def take(self, folder: Path, command: Sequence[str], teacher: Account | None = None) -> None:
        before, begun = _children(), time.perf_counter()
        run(folder, command, teacher)
        self.walls.append(time.perf_counter() - begun)
        self.processors.append(_children() - before)

    @property
    def wall(self) -> float:
        return statistics.median(self.walls)

    @property
    def processor(self) -> float:
        return statistics.median(self.processors)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(folder: Path, command: Sequence[str], teacher: Account | None = None) -> None:
    """Ours as root, nbgrader's as the teacher."""
    more: dict[str, Any] = {"user": teacher.uid, "group": teacher.gid, "extra_groups": []} if teacher else {}
    path = f"{Path(command[0]).parent}:/usr/local/bin:/usr/bin:/bin"
    home = teacher.home if teacher else Path.home()
    environment = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "SUDO_UID": os.environ["SUDO_UID"]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


class Class:
    """A course that is set up, with submissions, once for each side."""

    def __init__(self, folder: Path, teacher: Account, names: list[str], environment: Path | None) -> None:
        self.folder, self.teacher = folder, teacher
        self.ours, self.plain = folder / "grading", folder / "plain"
        for made in ("material", "quickstart"):
            (folder / made).mkdir()
        (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
        (folder / "notebooks.cfg").write_text(CONFIG)
        chown(folder, teacher)
        environments = CoursePaths(COURSE).grading_environments
        if environment and not environments.exists():
            environments.parent.mkdir(exist_ok=True)
            shutil.copytree(environment, environments, symlinks=True)
        nblauncher(folder, "setup")
        nblauncher(folder, "grade", "init")
        current = course_packages.current(environments)
        self.nbgrader = (str(course_packages.python_in(current)), "-m", "nbgrader") if current else ()
        self.by_nbgrader(folder / "quickstart", "quickstart", "example")
        shutil.copytree(folder / "quickstart/example/source", self.ours / "source", dirs_exist_ok=True)
        chown(self.ours, teacher)
        self.by_nbgrader(self.ours, "generate_assignment", ASSIGNMENT)
        workers.run_as(teacher, submit, str(self.ours), names)
        subprocess.run(["cp", "-a", str(self.ours), str(self.plain)], check=True)

    def by_nbgrader(self, folder: Path, *arguments: str) -> None:
        run(folder, [*self.nbgrader, *arguments], self.teacher)


def submit(course: str, names: list[str]) -> None:
    """As the teacher: variants of right and wrong answers."""
    choice = random.Random(7)
    for number, name in enumerate(names):
        folder = Path(course, "submitted", name, ASSIGNMENT)
        folder.mkdir(parents=True)
        for file in Path(course, "release", ASSIGNMENT).iterdir():
            if file.suffix != ".ipynb":
                shutil.copy(file, folder)
                continue
            notebook = json.loads(file.read_text())
            for cell in notebook["cells"]:
                answer(cell, number, choice)
            (folder / file.name).write_text(json.dumps(notebook))
        (folder / "timestamp.txt").write_text("2026-11-29 10:00:00.000000 UTC\n")


def answer(cell: dict[str, object], number: int, choice: random.Random) -> None:
    about = cell["metadata"].get("nbgrader", {})  # type: ignore[attr-defined]
    if about.get("grade_id") in GOOD:
        cell["source"] = (BAD if choice.random() < 0.4 else GOOD)[about["grade_id"]]
    elif about.get("solution") and choice.random() < 0.7:
        cell["source"] = f"an answer {number}" if cell["cell_type"] == "markdown" else f"x = {number}\nx"


def scores(course: Path) -> set[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{course}/gradebook.db?mode=ro", uri=True)) as gradebook:
        return set(gradebook.execute(SCORES))


def chown(folder: Path, account: Account) -> None:
    subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", str(folder)], check=True)


def compare(made: Class, names: list[str], runs: int) -> list[tuple[str, Times, Times]]:
    """nbgrader's and our times of grading and of feedback."""
    grading, feedback = (Times(), Times()), (Times(), Times())
    ours = [sys.executable, "-I", "-m", "nblauncher"]
    for number in range(runs):
        grading[0].take(made.plain, [*made.nbgrader, "autograde", ASSIGNMENT, *_again(number, "--force")], made.teacher)
        grading[1].take(made.folder, [*ours, "grade", ASSIGNMENT, *_again(number, "--regrade")])
        told, expected = scores(made.ours), scores(made.plain)
        if told != expected or {row[0] for row in told} != set(names):
            sys.exit(f"scores differ: {sorted(told ^ expected, key=str)[:20]}")
        print(f"run {number + 1}: {len(told)} scores are equal", flush=True)
    for number in range(runs):
        again = _again(number, "--force")
        feedback[0].take(made.plain, [*made.nbgrader, "generate_feedback", ASSIGNMENT, *again], made.teacher)
        if number:
            nblauncher(made.folder, "grade", ASSIGNMENT, "--regrade")
        feedback[1].take(made.folder, [*ours, "feedback", ASSIGNMENT])
    return [("grade", *grading), ("feedback", *feedback)]


def _again(number: int, option: str) -> list[str]:
    return [option] if number else []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--students", type=int, default=40)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--environment", type=Path, help="the environments that grade of another class")
    parser.add_argument("--keep", action="store_true", help="keep the class, and say where it is")
    options = parser.parse_args()
    names = [f"nbtu{number:03}" for number in range(options.students + 1)]
    subprocess.run(["useradd", "-m", "-u", str(FIRST_UID + 199), "--", TEACHER], check=True)
    entry = pwd.getpwnam(TEACHER)
    teacher = Account(TEACHER, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    os.environ["SUDO_UID"] = str(teacher.uid)  # the commands are the teacher's
    folder = Path(tempfile.mkdtemp(prefix="nbtu-", dir="/opt"))
    folder.chmod(0o755)
    try:
        made = Class(folder, teacher, names, options.environment)
        made.by_nbgrader(made.plain, "autograde", ASSIGNMENT, "--student", names[0])
        nblauncher(folder, "grade", ASSIGNMENT, "--only", names[0])
        rows = compare(made, names, options.runs)
    finally:
        if options.keep:
            print(folder)
        else:
            forget(folder, COURSE, names)
            subprocess.run(["userdel", "-r", "--", TEACHER], check=False, stderr=subprocess.DEVNULL)
            for left in (folder, CoursePaths(COURSE).grading_environments):
                shutil.rmtree(left, ignore_errors=True)
    print(f"\n{options.students} submissions of two notebooks\n")
    print("| what | who | wall s | CPU s | CPU s each | wall, nbgrader / ours | CPU, ours / nbgrader |")
    print("|---|---|---|---|---|---|---|")
    for what, plain, ours in rows:
        for who, times in (("nbgrader", plain), ("nblauncher", ours)):
            each = times.processor / options.students
            ratios = (
                f"{plain.wall / ours.wall:.1f} | {ours.processor / plain.processor:.2f}" if times is ours else " | "
            )
            print(f"| {what} | {who} | {times.wall:.1f} | {times.processor:.1f} | {each:.2f} | {ratios} |")


if __name__ == "__main__":
    main()
