"""A class of 200 jobs on a cluster whose nodes are full: how long it takes to submit, to watch and to end them.

    sudo python benchmarks/cluster.py [--students 200] [--watch 60]

Run it in the environment of the tests, which has pytest: it brings up their cluster, a controller and two nodes in
namespaces of this machine (tests/slurm_cluster.py). A job of somebody else's takes both nodes, so that the class waits
in the queue and no server starts: what is measured is what nblauncher and Slurm's controller do, on the same cores.

The same is done by hand in the same run: one sbatch for each student by a child that became the student, one after the
other, one squeue for all of them, and one scancel. Accounts are called nbtk000..., and go again with all they had.
"""

from __future__ import annotations

import argparse
import os
import pwd
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from _shared import forget, nblauncher, supervisor

sys.path.insert(0, str(Path(__file__).parents[1]))

from nblauncher.model import ROOT, SlurmSettings
from nblauncher.paths import CoursePaths
from nblauncher.supervisor import client, jobs
from nblauncher.supervisor.errands import Errands
from nblauncher.supervisor.loop import Loop, reap
from tests import slurm_cluster
from tests.slurm_cluster import Cluster

COURSE = "nbtk"
FIRST_UID, LAST_UID = 28500, 58999
CONFIG = """
course: {course}
accounts: {{uid_range: {first}-{last}}}
web: {{port: 21600, bind: [127.0.0.1]}}
notebook: {{spawner: slurm}}
limits: {{memory: 500 MB, cpus: 1}}
slurm: {{config: {config}}}
"""
LONGEST = 300.0
Row = tuple[str, str, str, str]
_WAITING = ("squeue", "-h", "-a", "-t", "PENDING", "-o", "%i")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--watch", type=float, default=60.0, help="seconds for which the supervisor is watched")
    options = parser.parse_args()
    names = [f"nbtk{number:03}" for number in range(options.students)]
    rows: list[Row] = []
    with slurm_cluster.running() as cluster, tempfile.TemporaryDirectory(prefix="nbtk-", dir="/opt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        others = cluster.run(*_job("--nodes=2", "--exclusive"), "--wrap=sleep 36000").strip()
        try:
            write_class(folder, names, cluster)
            nblauncher(folder, "setup")
            by_hand(cluster, names, rows)
            by_nblauncher(folder, cluster, names, rows, options.watch)
        finally:
            forget(folder, COURSE, names)
            cluster.run("scancel", others)
            cluster.clear()
    print(f"{options.students} students\n\n| what | wall s | CPU s | CPU s of the controller |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def by_hand(cluster: Cluster, names: list[str], rows: list[Row]) -> None:
    entries = [pwd.getpwnam(name) for name in names]
    ids: list[str] = []

    def submit() -> None:
        for entry in entries:
            done = subprocess.run(
                [*_job("--mem=500M", "--cpus-per-task=1"), "--wrap=sleep 36000"],
                check=True,
                capture_output=True,
                text=True,
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
                env=cluster.environment,
                cwd="/",
            )
            ids.append(done.stdout.strip())

    def wait_for_none() -> None:
        cluster.run("scancel", *ids)
        while cluster.run(*_WAITING):
            time.sleep(0.05)

    rows.append(_row(cluster, "by hand: sbatch for each student", submit))
    asked = ("squeue", "-h", "-a", f"-j{','.join(ids)}", "-o", "%i %T %k")
    rows.append(_row(cluster, "by hand: squeue", lambda: cluster.run(*asked)))
    rows.append(_row(cluster, "by hand: scancel", wait_for_none))


def by_nblauncher(folder: Path, cluster: Cluster, names: list[str], rows: list[Row], watch: float) -> None:
    paths = CoursePaths(COURSE)
    known: list[float] = []

    def until_known() -> None:
        while not known and time.monotonic() - began < LONGEST:
            time.sleep(0.1)
            if (one := client.connect(paths)) is not None:
                with one:
                    states = [report.state.value for report in one.servers()]
                if len(states) == len(names) and set(states) == {"queued"}:
                    known.append(time.monotonic() - began)

    watching = threading.Thread(target=until_known)
    began, used = time.monotonic(), _of_controller(cluster)
    watching.start()
    nblauncher(folder, "launch", "--background")
    returned = time.monotonic() - began
    watching.join()
    root = supervisor(COURSE)
    assert known and len(cluster.run(*_WAITING).split()) == len(names)
    rows.append(("nblauncher: until all are submitted and known", f"{known[0]:.1f}", "", ""))
    cost = f"{_processor(root):.1f}", f"{_of_controller(cluster) - used:.1f}"
    rows.append(("nblauncher: `launch` returns", f"{returned:.1f}", *cost))
    with client.start(paths) as one:
        numbers = [report.job for report in one.servers()]
    looks = [_look(cluster, sorted(filter(None, numbers))) for _ in range(15)]
    rows.append(("nblauncher: one look at all, fork included", f"{statistics.median(looks):.3f}", "", ""))
    start, used, of_controller = time.monotonic(), _processor(root), _of_controller(cluster)
    time.sleep(watch)
    passed = time.monotonic() - start
    share, of_controller = (_processor(root) - used) / passed, (_of_controller(cluster) - of_controller) / passed
    rows.append(("nblauncher: watching them, in a second", "", f"{share:.3f}", f"{of_controller:.3f}"))
    before = _of_controller(cluster)
    began = time.monotonic()
    nblauncher(folder, "shutdown")
    taken = f"{time.monotonic() - began:.2f}", "", f"{_of_controller(cluster) - before:.1f}"
    rows.append(("nblauncher: `shutdown`, until all are confirmed", *taken))
    assert not cluster.run(*_WAITING)


def _look(cluster: Cluster, numbers: list[int]) -> float:
    """Seconds of one look, as the supervisor takes it."""
    loop = Loop()
    seen: list[int] = []

    def done(found: dict[str, dict[str, object]]) -> None:
        seen.append(len(found["jobs"]))
        loop.stop()

    def failed(error: Exception) -> None:
        sys.exit(str(error))

    began = time.monotonic()
    settings = SlurmSettings(config=str(cluster.config))
    Errands(loop).run(ROOT, jobs._look, settings, numbers, {}, deadline=60, done=done, failed=failed)
    loop.run(lambda: None)
    taken = time.monotonic() - began
    loop.close()
    reap()
    assert seen == [len(numbers)]
    return taken


def write_class(folder: Path, names: list[str], cluster: Cluster) -> None:
    (folder / "material").mkdir()
    (folder / "material" / "lab.txt").write_text("measure\n")
    (folder / "students.csv").write_text("username\n" + "\n".join(names) + "\n")
    config = CONFIG.format(course=COURSE, first=FIRST_UID, last=LAST_UID, config=cluster.config)
    (folder / "notebooks.cfg").write_text(config)


def _job(*options: str) -> tuple[str, ...]:
    return ("sbatch", "--parsable", "--chdir=/", "--output=/dev/null", "--export=NIL", *options)


def _row(cluster: Cluster, what: str, act: Callable[[], object]) -> Row:
    began, before, of_controller = time.monotonic(), os.times(), _of_controller(cluster)
    act()
    wall, after = time.monotonic() - began, os.times()
    return (
        what,
        f"{wall:.2f}",
        f"{sum(after[:4]) - sum(before[:4]):.1f}",
        f"{_of_controller(cluster) - of_controller:.1f}",
    )


def _of_controller(cluster: Cluster) -> float:
    pid = cluster.controller.daemon_pid()
    assert pid
    return _processor(pid)


def _processor(pid: int) -> float:
    """User + system seconds of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
