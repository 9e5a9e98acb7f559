"""Merging a notebook of 2 MB, and signing a class's notebooks as the students.

    sudo python benchmarks/merge.py [--students 200] [--notebooks 10]

CPU seconds of one merge in a process that has nbformat in memory, as a student's child has: the median of ten, for a
notebook with few large outputs and for one of 1,500 cells. Signing is what `send` does with `material.trust: true`
after the files have arrived: a child for each student, two at a time; beside it `jupyter trust` for one student, times
the students. Accounts are called nbth000..., and go again with everything they had.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from _shared import delete, measured

from nblauncher.exchange import merge
from nblauncher.exchange.send import material, signing
from nblauncher.exchange.send.material import Bundle
from nblauncher.model import Account
from nblauncher.system import workers

ROOT = Account("root", 0, 0, Path("/root"))


def cell(number: int, source: str, output: str) -> dict[str, Any]:
    text = {"output_type": "stream", "name": "stdout", "text": [output]}
    about = {"cell_type": "code", "id": f"c{number}", "metadata": {}, "execution_count": 1}
    return {**about, "source": source, "outputs": [text]}


def notebook(cells: list[dict[str, Any]]) -> bytes:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1).encode()


def merge_seconds(cells: int, output: int) -> tuple[int, float]:
    """Size of a version, and CPU seconds of merging three of them; every third cell was edited on either side."""
    base = [cell(number, f"x{number} = 1\n" * 20, "y" * output) for number in range(cells)]
    student = [one | {"source": "mine"} if number % 3 == 0 else one for number, one in enumerate(base)]
    teacher = [one | {"source": "new"} if number % 3 == 1 else one for number, one in enumerate(base)]
    versions = [notebook(one) for one in (base, student, teacher)]
    times = []
    for _ in range(10):
        start = time.process_time()
        merge.merge("lab.ipynb", *versions)
        times.append(time.process_time() - start)
    return len(versions[0]), statistics.median(times)


@contextmanager
def account(username: str, uid: int) -> Iterator[Account]:
    subprocess.run(["useradd", "-m", "-K", "HOME_MODE=0700", "-u", str(uid), "--", username], check=True)
    try:
        entry = pwd.getpwnam(username)
        yield Account(username, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    finally:
        delete([username])


def sign_all(students: list[Account], bundle: Bundle) -> None:
    wanted = {path: item.sha256 for path, item in bundle.items.items()}
    waiting = list(students)
    running: dict[int, workers.Worker] = {}
    while waiting or running:
        while waiting and len(running) < 2:
            arguments = (waiting.pop(), "tutorial", wanted, bundle.descriptor, bundle.bases)
            worker = workers.start(ROOT, signing.sign, *arguments, keep={bundle.descriptor})
            running[worker.fileno()] = worker
        for descriptor in select.select(list(running), [], [])[0]:
            assert running.pop(descriptor).result(60) == len(wanted)


def trust_one(student: Account, contents: dict[str, bytes], folder: Path) -> None:
    for path, data in contents.items():
        (folder / path).write_bytes(data)
    become = ["setpriv", f"--reuid={student.uid}", f"--regid={student.gid}", "--clear-groups"]
    command = [*become, sys.executable, "-m", "nbformat.sign", *(str(folder / path) for path in contents)]
    environment = {"HOME": str(student.home), "PATH": os.defpath}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--notebooks", type=int, default=10)
    options = parser.parse_args()
    merge.load()
    signing.load()
    print("| merge | size of a version, MB | CPU s |\n|---|---|---|")
    for label, cells, output in (("100 cells", 100, 20_000), ("1,500 cells", 1500, 1000)):
        size, seconds = merge_seconds(cells, output)
        print(f"| {label} | {size / 1e6:.1f} | {seconds:.3f} |")
    contents = {
        f"lab{number}.ipynb": notebook([cell(one, f"{number} + {one}", "4" * 2000) for one in range(30)])
        for number in range(options.notebooks)
    }
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbth-", dir="/var/tmp")))
        state.chmod(0o755)
        students = [stack.enter_context(account(f"nbth{i:03}", 42000 + i)) for i in range(options.students)]
        bundle = stack.enter_context(material.bundle_of(contents, state))
        ours = measured(lambda: sign_all(students, bundle))
        theirs = measured(lambda: trust_one(students[0], contents, state))
    print(f"\n{options.students} students, {options.notebooks} notebooks each\n")
    print("| signing | wall s | CPU s |\n|---|---|---|")
    print(f"| send with material.trust | {ours[0]:.1f} | {ours[1]:.1f} |")
    print(f"| jupyter trust, one student | {theirs[0]:.2f} | {theirs[1]:.2f} |")


if __name__ == "__main__":
    main()
