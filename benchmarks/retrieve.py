"""How long it takes to bring a class's work home, against a loop of `rsync -a --chown` in the same run.

    sudo python benchmarks/retrieve.py [--students 100] [--files 100] [--megabytes 20] [--parallel 2]

Makes accounts nbtr000... (uids from 22020 on), and removes them with all that they had. Prints a Markdown table:
wall-clock and CPU seconds (user + system, children included). Both sides start with a synced disk and warm caches;
only our time includes writing everything to disk (syncfs). Memory is touched first, because a virtual machine gets its
memory from the host page by page on first use, which would cost whoever runs first several times the copying itself.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pwd
import resource
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from _shared import measured, need

from nblauncher.config.settings import RetrieveSettings
from nblauncher.exchange.retrieve import collection, store
from nblauncher.exchange.retrieve.scope import ALL, Scope
from nblauncher.model import Account
from nblauncher.system import workers

ROOT = Account("root", 0, 0, Path("/root"))
SCOPE = Scope(ALL, "tutorial")
FIRST_UID = 22020


@contextmanager
def account(username: str, uid: int) -> Iterator[Account]:
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(uid), "--", username], check=True)
    try:
        entry = pwd.getpwnam(username)
        yield Account(username, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    finally:
        subprocess.run(["userdel", "-r", "--", username], check=True, stderr=subprocess.DEVNULL)


def fill(student: Account, files: int, size: int) -> None:
    folder = student.home / SCOPE.target
    folder.mkdir()
    for index in range(files):
        file = folder / f"part{index % 10}" / f"lab{index}.ipynb"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(os.urandom(size))
    subprocess.run(["chown", "-R", f"{student.uid}:{student.gid}", str(folder)], check=True)


def touch_memory(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def collect_one(student: Account, teacher: Account, staging: store.Staging, previous: str) -> int:
    limits = RetrieveSettings(staging.target, max_file=2 << 30, max_student=2 << 30)
    collected = collection.collect(student, teacher, staging, SCOPE, limits, previous=previous)
    assert not collected.work.exclusions
    return collected.work.files


def retrieve(students: list[Account], teacher: Account, target: Path, parallel: int, previous: str = "") -> str:
    """As the command does it: each student in a forked process of root's, some at a time, then published."""
    staging = store.open_staging(teacher, target, datetime.now().astimezone())
    waiting = list(students)
    running: dict[int, workers.Worker] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            worker = workers.start(ROOT, collect_one, waiting.pop(), teacher, staging, previous)
            running[worker.fileno()] = worker
        for descriptor in select.select(list(running), [], [])[0]:
            running.pop(descriptor).result(60)
    return store.publish(teacher, staging)


def rsync(students: list[Account], teacher: Account, target: Path) -> None:
    owner = f"{teacher.uid}:{teacher.gid}"
    for student in students:
        source = f"{student.home / SCOPE.target}/"
        subprocess.run(["rsync", "-a", f"--chown={owner}", source, f"{target / student.username}/"], check=True)


def largest_process(student: Account, teacher: Account, target: Path, megabytes: int) -> int:
    """Peak memory (MB) of a retrieval of one file of this size: the largest of all processes that took part."""
    subprocess.run(["rm", "-rf", str(student.home / SCOPE.target)], check=True)
    fill(student, 1, megabytes << 20)
    pid = os.fork()
    if pid == 0:
        retrieve([student], teacher, target, 1)
        peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        os._exit(min(255, max(peaks) // 1024))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=20, help="per student")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--below", type=Path, default=Path("/var/tmp"), help="where the teacher's store is made")
    options = parser.parse_args()
    need("rsync")
    touch_memory(min(4 * int(options.students * options.megabytes * 1e6), os.sysconf("SC_AVPHYS_PAGES") * 2048))
    with ExitStack() as stack:
        below = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbtr-", dir=options.below)))
        below.chmod(0o755)
        teacher = stack.enter_context(account("nbtrteacher", FIRST_UID - 1))
        students = [stack.enter_context(account(f"nbtr{i:03}", FIRST_UID + i)) for i in range(options.students)]
        for student in students:
            fill(student, options.files, int(options.megabytes * 1e6) // options.files)
        for name in ("ours", "rsync"):
            (below / name).mkdir(mode=0o700)
            os.chown(below / name, teacher.uid, teacher.gid)
        names: list[str] = []
        rows = [
            ("rsync -a --chown, fresh copy", measured(lambda: rsync(students, teacher, below / "rsync"))),
            (
                "retrieve --all, fresh copy",
                measured(lambda: names.append(retrieve(students, teacher, below / "ours", options.parallel))),
            ),
            ("rsync -a --chown, nothing changed", measured(lambda: rsync(students, teacher, below / "rsync"))),
            (
                "retrieve --all, nothing changed",
                measured(lambda: retrieve(students, teacher, below / "ours", options.parallel, names[0])),
            ),
        ]
        print(f"{options.students} students, {options.files} files and {options.megabytes:g} MB each\n")
        print("| what | wall s | CPU s | rsync's wall / ours |\n|---|---|---|---|")
        for index, (label, (wall, cpu)) in enumerate(rows):
            ratio = f"{rows[index - 1][1][0] / wall:.1f}" if index % 2 else ""
            print(f"| {label} | {wall:.2f} | {cpu:.2f} | {ratio} |")
        print("\n| largest file | largest process, MB |\n|---|---|")
        for megabytes in (1, 500):
            print(f"| {megabytes} MB | {largest_process(students[0], teacher, below / 'ours', megabytes)} |")


if __name__ == "__main__":
    main()
