"""A class whose servers are jobs of a real cluster with two nodes."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nblauncher.supervisor import client
from nblauncher.supervisor.specs import ServerReport
from tests import launched, slurm_cluster
from tests.classroom import QUICK, Classroom, set_up_class
from tests.running import eventually
from tests.slurm_cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.slow]
cluster = slurm_cluster.cluster

NAMES = [f"nbtjob{number}" for number in range(1, 7)]
ADA, BOB, *_OTHERS = NAMES
PORT = 28700


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[Classroom]:
    with set_up_class("nbtjob", NAMES, port=PORT, first_uid=33800) as made:
        made.write(
            notebook={**QUICK, "spawner": "slurm"},
            slurm={"config": str(cluster.config)},
            limits={"memory": "600 MB", "cpus": 1},
            # Else the bridge of another test's cluster, which comes and goes, is an address of this host: the class
            # would get a new CA, and running servers keep certificates of the old one.
            web={"port": PORT, "bind": ["127.0.0.1"]},
        )
        yield made


@pytest.fixture
def up(room: Classroom) -> Classroom:
    if not launched.is_ready(room):
        room.run("launch", "--background")
    return room


def reports(room: Classroom) -> dict[str, ServerReport]:
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        return {report.username: report for report in supervisor.servers()}


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def waiting_page(room: Classroom, name: str) -> str:
    """What the front page says after the sign-in."""
    with launched.own_server(room, name) as browser:
        front = browser.origin.rpartition(":")[0] + f":{room.port}"
        typed = {"username": name, "password": room.credentials[name]["notebook_password"]}
        return browser.http.post(f"{front}/", data=typed).text


def processes_of(name: str) -> str:
    return subprocess.run(["pgrep", "-u", str(uid(name))], check=False, capture_output=True, text=True).stdout


def test_a_class_day_over_two_nodes(room, cluster):
    said = room.json("launch", "--background")
    assert [one["server"] for one in said["students"]] == ["ready"] * len(NAMES), said
    found = reports(room)
    assert {found[name].node for name in NAMES} == {"n1", "n2"}
    assert all(found[name].job and found[name].handle is None for name in NAMES)
    for name in NAMES:
        with launched.visitor(room, name) as student:
            ran = student.run("import os, socket; print(os.getuid(), socket.gethostname(), os.getcwd())")
            assert ran == f"{uid(name)} {found[name].node} {room.home(name)}\n"
    assert "Stopped" in room.run("shutdown").stdout
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i") == ""
    assert all(processes_of(name) == "" for name in NAMES)
    assert launched.states(room) == {}
    assert not [left for name in NAMES for left in room.home(name).glob(".local/share/nblauncher/jobs/*.json")]


def test_a_student_whose_node_fails_is_told_and_has_a_server_on_the_other_node(up, cluster):
    found = reports(up)
    node, other = found[ADA].node, {"n1": "n2", "n2": "n1"}[found[ADA].node]
    spared = [name for name in NAMES if found[name].node != node]
    cluster.kill_node(node)
    cluster.set_down(node)
    try:
        eventually(lambda: reports(up)[ADA].node == other and reports(up)[ADA].state.value == "ready", 60)
        assert f"its node {node} failed" in reports(up)[ADA].reason
        assert "started again" in reports(up)[ADA].reason
        with launched.visitor(up, ADA) as student:
            assert student.run("import socket; print(socket.gethostname())") == f"{other}\n"
        assert {name: reports(up)[name].job for name in spared} == {name: found[name].job for name in spared}
    finally:
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
        cluster.join(node)


def test_a_job_that_somebody_else_cancelled_stays_down_and_says_so(up, cluster):
    cluster.run("scancel", str(reports(up)[ADA].job))
    eventually(lambda: reports(up)[ADA].state.value == "failed", 30)
    assert "cancelled" in reports(up)[ADA].reason


def test_a_student_who_forges_comment_and_name_gets_nothing_and_the_others_are_right(up, cluster):
    before = reports(up)
    as_ada = {"user": uid(ADA), "group": pwd.getpwnam(ADA).pw_gid, "extra_groups": [], "env": cluster.environment}
    forged = [
        "comment=nbl1 run=00000000 r=0 port=1 said=listens",
        "comment=x\nnbl1 run=00000000 r=0 port=22000 said=listens",
        f"comment={before[BOB].job} | 0 | RUNNING",
        "name=nbl-other",
    ]
    for text in forged:
        subprocess.run(["scontrol", "update", f"jobid={before[ADA].job}", text], check=True, **as_ada)
        refused = subprocess.run(["scancel", str(before[BOB].job)], capture_output=True, check=False, **as_ada)
        assert refused.returncode
        mark = ["scontrol", "update", f"jobid={before[ADA].job}", "admincomment=nbl:other:1"]
        assert subprocess.run(mark, capture_output=True, check=False, **as_ada).returncode
    eventually(lambda: reports(up)[ADA].state.value == "ready")
    for name in NAMES:
        with launched.visitor(up, name) as student:
            assert student.run("import os; print(os.getuid())") == f"{uid(name)}\n"
    assert {name: one.job for name, one in reports(up).items()} == {name: one.job for name, one in before.items()}


def test_the_next_launch_adopts_the_jobs_of_a_killed_supervisor(up):
    before = reports(up)
    os.kill(launched.supervisor_pid(up), signal.SIGKILL)
    assert "nothing to do" not in up.run("launch", "--background").stdout
    eventually(lambda: launched.is_ready(up), 30)
    assert {name: one.job for name, one in reports(up).items()} == {name: one.job for name, one in before.items()}
    with launched.visitor(up, ADA) as student:
        assert student.run("import os; print(os.getuid())") == f"{uid(ADA)}\n"


def test_a_relay_that_dies_is_started_again_and_status_says_so(up):
    supervisor = launched.supervisor_pid(up)
    relay = next(one for one in psutil.Process(supervisor).children() if "systemd-socket" in one.name())
    relay.kill()
    eventually(lambda: any("relay" in word for one in reports(up).values() for word in one.pressure))
    for name in NAMES:
        with launched.visitor(up, name) as student:
            assert student.api("GET", "me").status_code == 200


def test_without_the_controller_the_class_goes_on_and_nothing_is_said_to_be_dead(up, cluster):
    before = reports(up)
    cluster.stop_controller()
    try:
        eventually(lambda: reports(up)[ADA].state.value == "unknown", 60)
        said = up.json("status")
        assert {one["server"] for one in said["students"]} == {"unknown"}
        assert "has not answered since" in said["students"][0]["reason"]
        with launched.visitor(up, ADA) as student:
            assert student.run("print(1)") == "1\n"
        launch = up.run("launch", "--background", expect=None)
        assert launch.returncode in (1, 5), launch
        shut = up.run("shutdown", expect=None)
        assert shut.returncode in (1, 5), shut
        assert "shutdown` again" in shut.stderr + shut.stdout
    finally:
        cluster.start_controller()
    up.run("shutdown")
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i") == ""
    assert all(processes_of(name) == "" for name in NAMES)
    assert before[ADA].job


def test_launch_without_a_controller_submits_nothing(room, cluster):
    room.run("shutdown")
    cluster.stop_controller()
    try:
        done = room.run("launch", "--background", expect=None)
        assert done.returncode in (1, 5), done
        assert "controller does not answer" in done.stdout + done.stderr
    finally:
        cluster.start_controller()
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%i") == ""
    room.run("shutdown")


def test_a_student_in_the_queue_is_no_failure_and_becomes_ready(room, cluster):
    room.run("shutdown")
    blocking = ("sbatch", "--parsable", "--nodes=2", "--exclusive", "--chdir=/", "--output=/dev/null")
    others = cluster.run(*blocking, "--wrap=sleep 600").strip()
    try:
        said = room.json("launch", "--background", "--only", f"{ADA},{BOB}")
        assert {one["server"] for one in said["students"] if one["username"] in (ADA, BOB)} == {"queued"}
        reasons = {one["username"]: one["reason"] for one in room.json("status")["students"]}
        assert "place 1 in the cluster's queue" in reasons[ADA] and "place 2 in the cluster's queue" in reasons[BOB]
        assert "Waiting for a computer" in waiting_page(room, ADA)
    finally:
        cluster.run("scancel", others)
    eventually(lambda: {reports(room)[name].state.value for name in (ADA, BOB)} == {"ready"}, 60)
    room.run("shutdown")
    assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i") == ""


def test_a_job_that_no_supervisor_knows_does_not_stay_beside_a_new_one(room, cluster):
    room.run("shutdown")
    entry = pwd.getpwnam(ADA)
    argv = ["sbatch", "--parsable", "--export=NIL", "--job-name=nbl-nbtjob", "--output=/dev/null", "--mem=50M"]
    still = Path(entry.pw_dir) / "still-writing"  # for a while after it was cancelled
    slow = f"trap 'for i in 1 2 3 4; do touch {still}; sleep 1; done; rm {still}; exit' TERM; sleep 600 & wait"
    forgotten = subprocess.run(
        [*argv, f"--wrap={slow}"],
        check=True,
        capture_output=True,
        text=True,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        env=cluster.environment,
        cwd="/",
    ).stdout.strip()
    eventually(lambda: cluster.run("squeue", "-h", "-j", forgotten, "-o", "%T") == "RUNNING\n", 20)
    room.run("launch", "--background", "--only", ADA)
    assert not still.exists()
    listed = cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i").split()
    assert forgotten not in listed and listed == [str(reports(room)[ADA].job)]


def test_a_sleeping_server_is_submitted_when_its_student_comes_and_ends_when_it_is_idle(room, cluster):
    room.run("shutdown")
    room.write(notebook={**QUICK, "spawner": "slurm", "start": "on-demand", "idle_stop": 1})
    try:
        said = room.json("launch", "--background")
        assert {one["server"] for one in said["students"]} == {"asleep"}
        assert cluster.run("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i") == ""
        with launched.visitor(room, BOB) as student:
            assert student.api("GET", "me").status_code == 200
        assert reports(room)[BOB].state.value == "ready"
        eventually(lambda: reports(room)[BOB].state.value == "asleep", 150)
        with launched.visitor(room, BOB) as student:
            assert student.api("GET", "me").status_code == 200
    finally:
        room.write(notebook={**QUICK, "spawner": "slurm"})
        room.run("shutdown")
