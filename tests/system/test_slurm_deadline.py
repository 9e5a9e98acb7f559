"""Freeze, thaw and deadlines of a class whose servers are jobs of a real cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from nblauncher.commands.deadlines import job_freezer
from tests import launched, slurm_cluster
from tests.classroom import QUICK, Classroom, set_up_class
from tests.cluster_class import captured, is_moving, remarks, soon, writes_all_the_time
from tests.running import eventually
from tests.slurm_cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.slow]
cluster = slurm_cluster.cluster

ADA, BOB, EVE = NAMES = [f"nbtjd{number}" for number in range(1, 4)]
PORT = 29000


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[Classroom]:
    with set_up_class("nbtjd", NAMES, port=PORT, first_uid=34600) as made:
        made.write(
            notebook={**QUICK, "spawner": "slurm"},
            slurm={"config": str(cluster.config)},
            limits={"memory": "600 MB", "cpus": 1},
            web={"port": PORT, "bind": ["127.0.0.1"]},
        )
        (made.folder / "material/ps1").mkdir()
        (made.folder / "material/ps1/task.txt").write_text("fresh\n")
        made.run("send")
        yield made


@pytest.fixture
def up(room: Classroom) -> Classroom:
    if not launched.is_ready(room):
        room.run("launch", "--background")
    return room


def job_of(room: Classroom, name: str) -> int:
    job = launched.reports(room)[name].job
    assert job
    return job


def state_of(cluster: Cluster, job: int) -> str:
    return cluster.run("squeue", "-h", "-j", str(job), "-o", "%T").strip()


def as_student(cluster: Cluster, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(name)
    who: dict[str, Any] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return subprocess.run(argv, check=False, capture_output=True, text=True, env=cluster.environment, cwd="/", **who)


def has_to_stop(pid: int) -> bool:
    """Whether a stop waits until our freezer lets go of it (proc(5): the signals of the process that are pending)."""
    pending = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("ShdPnd"))
    return bool(int(pending.split()[1], 16) & (1 << (signal.SIGSTOP - 1) | 1 << (signal.SIGTSTP - 1)))


def is_stopped_by_slurm(cluster: Cluster, room: Classroom, name: str) -> bool:
    """Not by our own freezer, which reaches the nodes too: they are on this very host."""
    if not cluster.has_cgroups:
        theirs = launched.processes_of(pwd.getpwnam(name).pw_uid)
        return bool(theirs) and all(one.status() == psutil.STATUS_STOPPED or has_to_stop(one.pid) for one in theirs)
    pattern = f"*/slurm_*/uid_{pwd.getpwnam(name).pw_uid}/job_{job_of(room, name)}/step_batch/freezer.state"
    (file,) = Path(f"/sys/fs/cgroup/freezer/nbt-slurm{cluster.number}").glob(pattern)
    return file.read_text().strip() == "FROZEN"


def capture(room: Classroom, expect: int = 0) -> Path:
    """Of the whole class, some seconds from now, by a command that waits for it."""
    at = soon(5)
    room.write(deadlines={"ps1": f"{at:%Y-%m-%d %H:%M:%S}"})
    room.run("setup")
    room.run("retrieve", "--unattended", room.course, expect=expect)
    folder = captured(room, at)
    assert folder is not None
    return folder


@contextmanager
def site(room: Classroom, cluster: Cluster, suspend: str) -> Iterator[None]:
    """Slurm's commands as on a site where `scontrol suspend` is this line of shell; the real one is $real."""
    programs = room.folder / "bin"
    programs.mkdir(exist_ok=True)
    programs.chmod(0o755)
    real = shutil.which("scontrol")
    (programs / "scontrol").write_text(
        f'#!/bin/sh\nreal={real}\nif [ "$1" = suspend ]; then {suspend}; fi\nexec $real "$@"\n'
    )
    (programs / "scontrol").chmod(0o755)
    before = room.config["slurm"]
    room.write(slurm={**before, "programs": str(programs)})
    try:
        yield
    finally:
        room.write(slurm=before)
        room.run("setup")


def test_a_job_in_the_queue_is_not_frozen_and_is_as_soon_as_it_runs(room, cluster):
    """With a class that was shut down."""
    blocking = ("sbatch", "--parsable", "--nodes=2", "--exclusive", "--chdir=/", "--output=/dev/null")
    others = cluster.run(*blocking, "--wrap=sleep 600").strip()
    try:
        launch = room.start("launch", "--background", "--only", EVE)
        eventually(lambda: launched.states(room).get(EVE) == "queued", 30)
        launch.kill()  # it would wait for room on the cluster
        launch.communicate()
        refused = room.run("freeze", "--only", EVE, expect=1).stderr
        assert "not frozen yet" in refused and "frozen as soon as it runs" in refused
    finally:
        cluster.run("scancel", others)
    eventually(lambda: launched.said_states(room)[EVE] == "frozen", 30)
    assert state_of(cluster, job_of(room, EVE)) == "SUSPENDED"
    room.run("thaw")
    eventually(lambda: launched.said_states(room)[EVE] == "ready", 30)


def test_frozen_students_stay_frozen_until_thaw_whatever_they_and_the_supervisor_do(up, cluster):
    writes_all_the_time(up, ADA)
    with launched.visitor(up, BOB) as student:
        kernel = student.start_kernel()
        student.run("kept = 42", kernel)
        up.run("freeze", "--only", f"{ADA},{BOB}")
        said = launched.students(up.json("status"))
        assert [said[name]["server"] for name in NAMES] == ["frozen", "frozen", "ready"]
        assert "frozen until `nblauncher thaw`" in said[ADA]["reason"] and said[ADA]["frozen"]
        assert not is_moving(up, ADA) and is_stopped_by_slurm(cluster, up, ADA)
        job = job_of(up, ADA)
        for wish in ("resume", "release", "requeue"):
            assert as_student(cluster, ADA, "scontrol", wish, str(job)).returncode, wish
        assert "nothing to do" in up.run("freeze", "--only", ADA).stdout
        os.kill(launched.supervisor_pid(up), signal.SIGKILL)
        up.run("launch", "--background")
        eventually(lambda: launched.said_states(up)[ADA] == "frozen", 20)
        assert state_of(cluster, job) == "SUSPENDED" and not is_moving(up, ADA)
        up.run("thaw")
        assert not is_stopped_by_slurm(cluster, up, ADA)
        assert student.run("print(kept)", kernel) == "42\n"
    eventually(lambda: is_moving(up, ADA))
    assert launched.said_states(up)[ADA] == "ready"
    assert job_of(up, ADA) == job
    assert not list(up.paths.state.glob("jobs-frozen*.json"))


def test_jobs_that_a_killed_capture_left_suspended_run_again(up, cluster):
    """The command and its watcher are killed at the worst moment."""
    at = soon(5)
    up.write(deadlines={"ps1": f"{at:%Y-%m-%d %H:%M:%S}"})
    up.run("setup")
    process = up.start("retrieve", "--unattended", up.course)
    job = job_of(up, ADA)
    eventually(lambda: state_of(cluster, job) == "SUSPENDED", 30)
    for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
        one.kill()
    process.wait()
    assert state_of(cluster, job) == "SUSPENDED"
    assert (up.paths.state / job_freezer.BY_CAPTURE).exists()
    told = up.run("status", expect=None).stderr
    assert "Thawed them" in told and ADA in told
    assert state_of(cluster, job) == "RUNNING"
    up.run("retrieve", "--unattended", up.course, expect=None)


def test_where_root_may_not_suspend_freeze_says_who_was_not_frozen_and_a_capture_takes_the_files_and_says_it(
    up, cluster
):
    writes_all_the_time(up, ADA)
    with site(up, cluster, 'echo "Access/permission denied" >&2; exit 1'):
        done = up.run("freeze", "--only", ADA, expect=1)
        assert "could not be suspended" in done.stderr and "Access/permission denied" in done.stderr
        # The supervisor may not have looked since the last test, in which the job was suspended.
        eventually(lambda: launched.said_states(up)[ADA] == "ready", 10)
        assert is_moving(up, ADA)
        assert "othing to do" in up.run("thaw").stdout
        folder = capture(up, expect=5)
        assert (folder / ADA / "work/ps1").is_dir()
        (said,) = remarks(folder, BOB)
        assert "not frozen" in said and "Access/permission denied" in said


def test_a_job_that_somebody_resumes_during_a_capture_is_listed(up, cluster):
    with site(up, cluster, '$real "$@"; (sleep 2; $real resume "$2") >/dev/null 2>&1 & exit 0'):
        folder = capture(up, expect=5)
        assert any("did not stay suspended" in one for name in NAMES for one in remarks(folder, name))
