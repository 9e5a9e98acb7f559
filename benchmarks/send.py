"""How long it takes to hand out material to a class, against loops of `rsync -a --chown` and `cp -a` in the same run.

    sudo python benchmarks/send.py [--students 100] [--files 100] [--megabytes 20] [--parallel 2]

Makes accounts nbts000... (uids from 23000 on), and removes them with all that they had. Prints a Markdown table:
wall-clock and CPU seconds (user + system, children included). Ours is what the command does after it has read its
config: index, ledger, plan, spool, delivery, ledger. Every run starts with a synced disk and warm caches; only our time
includes writing everything to disk (syncfs). Memory is touched first, because a virtual machine gets its memory from
the host page by page on first use, which would cost whoever runs first several times the copying itself.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pwd
import resource
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from functools import partial
from pathlib import Path

from _shared import measured, need

from nblauncher.exchange import merge
from nblauncher.exchange.objects import ObjectStore
from nblauncher.exchange.send import delivery, material
from nblauncher.exchange.send.material import Bundle
from nblauncher.exchange.send.teacher_side import Item
from nblauncher.ledger import CourseLedger
from nblauncher.model import Account, HandedOut, Material
from nblauncher.system import workers

ROOT = Account("root", 0, 0, Path("/root"))
TARGET = "tutorial"
FIRST_UID = 23000


@contextmanager
def account(username: str, uid: int) -> Iterator[Account]:
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(uid), "--", username], check=True)
    try:
        entry = pwd.getpwnam(username)
        yield Account(username, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    finally:
        subprocess.run(["userdel", "-r", "--", username], check=True, stderr=subprocess.DEVNULL)


def fill(folder: Path, files: int, size: int) -> None:
    for number in range(files):
        file = folder / f"week{number % 10}" / f"lab{number}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(size))


def touch_memory(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def emptied(students: list[Account]) -> None:
    for student in students:
        shutil.rmtree(student.home / TARGET, ignore_errors=True)
    os.sync()


class Course:
    """A teacher's folder, and root's: what stands between the command and the homes."""

    def __init__(self, source: Path, state: Path, owner: Account) -> None:
        self.material, self.state, self.owner = Material(source, TARGET), state, owner
        self.ledger = CourseLedger(state / "course.db")
        self.remembered = state / "material.json"
        self.versions = ObjectStore(state / "objects")

    def send(self, students: list[Account], parallel: int) -> int:
        """As the command does it: each student in a forked process of root's, some at a time."""
        index = material.index(self.material, self.owner, previous=material.recall(self.remembered))
        material.remember(index, self.remembered)
        ledgers = self.ledger.all_handed_out("material")
        lacking = [(one, delivery.pending(index, ledgers.get(one.username, {}))) for one in students]
        waiting = [(student, items) for student, items in lacking if items]
        paths = {item.path for _, items in waiting for item in items}
        if not paths:
            return 0
        running: dict[int, workers.Worker] = {}
        done = len(waiting)
        known = (ledgers.get(one.username, {}).get(item.path) for one, items in waiting for item in items)
        bases = {one.made_of for one in known if one}
        if bases:
            merge.load()
        self.versions.prune(self.ledger.versions())
        with material.spool(
            self.material, self.owner, paths, self.state, versions=self.versions, bases=bases
        ) as bundle:
            while waiting or running:
                while waiting and len(running) < parallel:
                    student, items = waiting.pop()
                    handed_out = ledgers.get(student.username, {})
                    arguments = (student, items, bundle, handed_out)
                    worker = workers.start(ROOT, self.send_to, *arguments, keep={bundle.descriptor})
                    running[worker.fileno()] = worker
                for descriptor in select.select(list(running), [], [])[0]:
                    running.pop(descriptor).result(600)
        return done

    def send_to(
        self, student: Account, items: tuple[Item, ...], bundle: Bundle, handed_out: dict[str, HandedOut]
    ) -> None:
        shipment = delivery.Shipment(TARGET, items, bundle, handed_out, date.today())
        sent = delivery.deliver(student, shipment)
        self.ledger.record_handed_out(student.username, "material", sent.handed_out)
        assert not sent.failure and not sent.work.exclusions


def rsync(source: Path, students: list[Account]) -> None:
    for student in students:
        owner = f"--chown={student.username}:{student.username}"
        subprocess.run(["rsync", "-a", owner, f"{source}/", f"{student.home / TARGET}/"], check=True)


def copy(source: Path, students: list[Account]) -> None:
    for student in students:
        target = student.home / TARGET
        target.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
        subprocess.run(["chown", "-R", f"{student.uid}:{student.gid}", str(target)], check=True)


def largest_process(course: Course, student: Account, megabytes: int) -> int:
    """Peak memory (MB) of sending one file of this size: the largest of all processes that took part."""
    shutil.rmtree(course.material.source)
    course.material.source.mkdir()
    (course.material.source / f"{megabytes}.bin").write_bytes(os.urandom(megabytes << 20))
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            course.send([student], 1)
            peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            status = min(254, max(peaks) // 1024)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def compare(course: Course, students: list[Account], parallel: int) -> list[tuple[str, tuple[float, float]]]:
    source = course.material.source
    rows = []
    for label, act in (("cp -a and chown -R", copy), ("rsync -a --chown", rsync)):
        emptied(students)
        rows.append((f"{label}, fresh copy", measured(partial(act, source, students))))
        rows.append((f"{label}, nothing to do", measured(partial(act, source, students))))
    emptied(students)
    rows.append(("send, fresh copy", measured(lambda: course.send(students, parallel))))
    rows.append(("send, nothing to do", measured(lambda: course.send(students, parallel))))
    for file in list(source.rglob("*.ipynb"))[::10]:
        file.write_bytes(os.urandom(file.stat().st_size))
    rows.append(("send, one file in ten is new", measured(lambda: course.send(students, parallel))))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=20, help="in all")
    parser.add_argument("--parallel", type=int, default=2)
    options = parser.parse_args()
    need("rsync")
    touch_memory(min(4 * int(options.students * options.megabytes * 1e6), os.sysconf("SC_AVPHYS_PAGES") * 2048))
    with ExitStack() as stack:
        below = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbts-", dir="/var/tmp")))
        below.chmod(0o755)
        state = below / "state"
        state.mkdir(mode=0o700)
        students = [stack.enter_context(account(f"nbts{i:03}", FIRST_UID + i)) for i in range(options.students)]
        fill(below / "material", options.files, int(options.megabytes * 1e6) // options.files)
        course = Course(below / "material", state, ROOT)
        course.ledger.begin_students({student.username: student.uid for student in students})
        rows = compare(course, students, options.parallel)
        reference = {label.partition(", ")[2]: wall for label, (wall, _) in rows if label.startswith("rsync")}
        print(f"{options.students} students, {options.files} files and {options.megabytes:g} MB in all\n")
        print("| what | wall s | CPU s | rsync's wall / this |\n|---|---|---|---|")
        for label, (wall, cpu) in rows:
            known = reference.get(label.partition(", ")[2])
            print(f"| {label} | {wall:.2f} | {cpu:.2f} | {f'{known / wall:.1f}' if known else ''} |")
        print("\n| largest file | largest process, MB |\n|---|---|")
        for megabytes in (1, 500):
            print(f"| {megabytes} MB | {largest_process(course, students[0], megabytes)} |")


if __name__ == "__main__":
    main()
