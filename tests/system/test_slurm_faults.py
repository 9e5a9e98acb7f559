"""What breaks while a class runs as jobs: a node's daemon, its network, a job that never answers, this host itself."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from tests import launched, slurm_cluster
from tests.classroom import QUICK, Classroom, set_up_class
from tests.cluster_class import uid
from tests.launched import reports
from tests.running import eventually
from tests.slurm_cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.slow]
cluster = slurm_cluster.cluster

NAMES = [f"nbtjf{number}" for number in range(1, 5)]
ADA, BOB, CLEO, DAN = NAMES
"""Ada and Bob begin on n1, Cleo and Dan on n2. Dan's job has a minute."""
REST = f"{ADA},{BOB},{CLEO}"
PORT = 29200
OTHER = {"n1": "n2", "n2": "n1"}


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[Classroom]:
    with cluster.in_a_hurry(), set_up_class("nbtjf", NAMES, port=PORT, first_uid=35000) as made:
        made.write(
            notebook={**QUICK, "spawner": "slurm"},
            slurm={"config": str(cluster.config)},
            limits={"memory": "600 MB", "cpus": 1},
            web={"port": PORT, "bind": ["127.0.0.1"]},
        )
        with jobs_only_on(cluster, "n2"):
            made.run("launch", "--background", "--only", f"{CLEO},{DAN}")
        cluster.run("scontrol", "update", f"jobid={reports(made)[DAN].job}", "timelimit=1")
        with jobs_only_on(cluster, "n1"):
            made.run("launch", "--background")
        yield made


def jobs(room: Classroom, *names: str) -> dict[str, int | None]:
    return {name: one.job for name, one in reports(room).items() if name in names}


def is_at(room: Classroom, name: str, node: str) -> bool:
    found = reports(room)[name]
    return found.node == node and found.state.value == "ready"


def computer_of(room: Classroom, name: str) -> str:
    """Where the student's cells run, by way of the front page and the student's own port."""
    with launched.visitor(room, name) as student:
        return student.run("import socket; print(socket.gethostname())").strip()


def servers_of(name: str) -> list[int]:
    """The pids of the student's notebook servers, on whatever node."""
    return [one.pid for one in launched.processes_of(uid(name)) if "nblauncher.server.node" in _words(one)]


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def leaders_of(name: str) -> set[int]:
    """Without the small process that reports, which is a child of the server's."""
    pids = set(servers_of(name))
    return {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).ppid() not in pids}


@contextlib.contextmanager
def jobs_only_on(cluster: Cluster, node: str) -> Iterator[None]:
    """What runs on the other node goes on there."""
    cluster.run("scontrol", "update", f"nodename={OTHER[node]}", "state=drain", "reason=test")
    cluster.wait_for_nodes([node])
    try:
        yield
    finally:
        cluster.run("scontrol", "update", f"nodename={OTHER[node]}", "state=resume")


def notices(room: Classroom, name: str) -> list[str]:
    with launched.visitor(room, name) as student:
        return [one["text"] for one in student.api("GET", "nblauncher/notices").json()["notices"]]


def test_a_daemon_that_is_back_in_time_is_noticed_by_nobody(room, cluster):
    before = jobs(room, *NAMES)
    cluster.kill_daemon("n1")
    time.sleep(1.5)  # longer than one look
    cluster.join("n1")
    assert jobs(room, *NAMES) == before
    assert {(one.state.value, one.reason) for one in reports(room).values()} == {("ready", "")}
    assert computer_of(room, ADA) == "n1"


def test_a_daemon_that_stays_away_moves_its_students_and_no_second_server_stays_over_their_homes(room, cluster):
    spared, old = jobs(room, CLEO), leaders_of(ADA)
    cluster.kill_daemon("n1")
    try:
        shutdown = room.start("shutdown", "--only", f"{BOB}")
        eventually(lambda: is_at(room, ADA, "n2"))
        assert "its node n1 failed" in reports(room)[ADA].reason
        eventually(lambda: not old & leaders_of(ADA), 20)  # nothing of Slurm's could have ended it
        eventually(lambda: len(leaders_of(ADA)) == 1)  # the small process of the old one may take a moment more
        assert any("n1" in text for text in notices(room, ADA))
        out, errors = shutdown.communicate(timeout=60)
        assert shutdown.returncode == 1, (out, errors)
        assert f"{BOB} (it was shut down; n1 does not answer, and what ran there may go on" in errors
        eventually(lambda: not leaders_of(BOB), 20)
        assert jobs(room, CLEO) == spared and notices(room, CLEO) == []
    finally:
        cluster.join("n1")
    assert (computer_of(room, ADA), computer_of(room, CLEO)) == ("n2", "n2")
    assert jobs(room, CLEO) == spared


def test_a_node_whose_link_is_down_loses_its_students_to_the_other_one_and_keeps_nothing_afterwards(room, cluster):
    room.run("launch", "--background", "--only", BOB)
    assert is_at(room, BOB, "n1")
    spared = jobs(room, ADA, CLEO)
    cluster.cut("n1")
    try:
        eventually(lambda: any("does not reach its node" in word for word in reports(room)[BOB].pressure))
        assert computer_of(room, CLEO) == "n2"
        eventually(lambda: is_at(room, BOB, "n2"))
        assert "its node n1 failed" in reports(room)[BOB].reason
    finally:
        cluster.kill_daemon("n1")  # a new one announces itself at once, and the old one only when it is asked again
        cluster.join("n1")
    moved = jobs(room, BOB)
    eventually(lambda: len(leaders_of(BOB)) == 1)
    assert computer_of(room, BOB) == "n2"
    assert jobs(room, ADA, CLEO) == spared and jobs(room, BOB) == moved
    listed = cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%u").split()
    assert sorted(name for name in listed if name != DAN) == [ADA, BOB, CLEO]


def test_a_job_that_ran_out_of_memory_says_so_and_is_started_again(room, cluster):
    if not cluster.has_cgroups:
        pytest.skip("this host has no control groups of version 1")
    before = jobs(room, BOB)
    with launched.visitor(room, BOB) as student:
        kernel = student.start_kernel()
        with student.notebook(kernel) as notebook:
            notebook.begin("x = b'x' * 2_000_000_000")
            notebook.receive(lambda one: "restarting" in one["content"].get("execution_state", ""))
        assert student.api("GET", "me").status_code == 200  # it cost the kernel, not the server
    for pid in leaders_of(BOB):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: reports(room)[BOB].state.value == "ready" and jobs(room, BOB) != before)
    assert "memory ran out" in reports(room)[BOB].reason


def class_processes(room: Classroom) -> list[psutil.Process]:
    supervisor = psutil.Process(launched.supervisor_pid(room))
    return [supervisor, *supervisor.children(recursive=True)]


def end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, 10)


SQUATTER = """
import socket, sys, time
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(1, flush=True)
time.sleep(99)
"""


def test_a_port_that_another_account_took_while_nobody_held_it_is_named_and_the_job_goes_on(room):
    before = jobs(room, ADA, BOB, CLEO)
    held = launched.port_of(room, ADA)
    as_bob = {"user": uid(BOB), "group": pwd.getpwnam(BOB).pw_gid, "extra_groups": [], "cwd": "/"}
    squat = ["python3", "-c", SQUATTER, str(held)]
    os.kill(launched.supervisor_pid(room), signal.SIGKILL)
    refused = subprocess.run(squat, capture_output=True, text=True, timeout=20, check=False, **as_bob)
    assert "Address already in use" in refused.stderr  # the relay holds it
    room.run("launch", "--background", "--only", REST)
    end(class_processes(room))
    with subprocess.Popen(squat, stdout=subprocess.PIPE, **as_bob) as squatter:
        assert squatter.stdout is not None and squatter.stdout.readline() == b"1\n"
        try:
            done = room.run("launch", "--background", "--only", REST, expect=5)
            assert f"port {held} is not open" in launched.students(room.json("status"))[ADA]["reason"]
            assert f"port {held} is already used by python3 (pid {squatter.pid}, {BOB})" in done.stderr + done.stdout
        finally:
            squatter.kill()
    room.run("launch", "--background", "--only", REST)
    assert jobs(room, ADA, BOB, CLEO) == before
    computer_of(room, ADA)


def test_a_job_whose_time_is_over_says_so_and_stays_down(room):
    eventually(lambda: reports(room)[DAN].state.value == "failed", 150)
    assert reports(room)[DAN].reason == "its time limit was reached"


def reboot(room: Classroom) -> None:
    """What a reboot of this host takes: processes, and what is below /run."""
    end(class_processes(room))
    shutil.rmtree(room.paths.run)


def test_after_a_reboot_of_this_host_launch_finds_the_jobs_again(room):
    before, servers = jobs(room, ADA, BOB, CLEO), leaders_of(ADA)
    reboot(room)
    said = launched.students(room.json("status"))
    assert {said[name]["server"] for name in (ADA, BOB, CLEO)} == {"unknown"}
    room.run("launch", "--background", "--only", REST)
    assert jobs(room, ADA, BOB, CLEO) == before and leaders_of(ADA) == servers
    with launched.visitor(room, ADA) as student:
        assert student.run("import os; print(os.getuid())") == f"{uid(ADA)}\n"


def test_a_job_that_fails_before_it_answers_says_why_and_is_left_down(room):
    room.run("shutdown", "--only", DAN)
    settings = dict(room.config["slurm"])
    room.write(slurm={**settings, "python": "/nowhere/python"})
    try:
        done = room.run("launch", "--background", "--only", DAN, expect=1)
    finally:
        room.write(slurm=settings)
    dan = launched.students(room.json("status"))[DAN]
    assert dan["server"] == "failed" and "/nowhere/python: No such file" in dan["reason"]
    assert dan["reason"] in done.stderr + done.stdout


def test_a_job_whose_server_is_killed_while_it_starts_is_left_down_and_one_whose_node_fails_is_not(room, cluster):
    room.run("shutdown", "--only", f"{BOB},{DAN}")
    launch = room.start("launch", "--background", "--only", f"{BOB},{DAN}")
    stopped: dict[str, int] = {}
    for name in (BOB, DAN):
        (stopped[name],) = eventually(lambda name=name: leaders_of(name))
        os.kill(stopped[name], signal.SIGSTOP)  # so that it does not answer before it ends
    os.kill(stopped[BOB], signal.SIGKILL)
    node = eventually(lambda: reports(room)[DAN].node)
    cluster.set_down(node)
    try:
        out, errors = launch.communicate(timeout=60)
        assert launch.returncode == 5, (out, errors)
    finally:
        cluster.resume(node)
    assert (reports(room)[BOB].state.value, reports(room)[DAN].state.value) == ("failed", "ready")
    assert "killed by SIGKILL" in reports(room)[BOB].reason and f"its node {node} failed" in reports(room)[DAN].reason


def test_after_a_reboot_of_this_host_shutdown_ends_the_jobs(room, cluster):
    assert leaders_of(ADA)
    reboot(room)
    room.run("shutdown")
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i") == ""
    assert [name for name in NAMES if leaders_of(name)] == []
