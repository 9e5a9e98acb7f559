"""A class whose servers are jobs of a real cluster with two nodes."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import launched, slurm_cluster
from tests.classroom import QUICK, Classroom, set_up_class
from tests.cluster_class import captured, is_moving, nothing_is_left, remarks, soon, uid, writes_all_the_time
from tests.homework import write
from tests.launched import reports
from tests.running import eventually
from tests.slurm_cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.early]
cluster = slurm_cluster.cluster

NAMES = [f"nbtjob{number}" for number in range(1, 7)]
ADA, BOB, *_OTHERS = NAMES
PORT = 28700
# With all addresses, the bridge of another test's cluster, which comes and goes, would be one of this host: the class
# would get a new CA, and running servers keep certificates of the old one.
WEB = {"port": PORT, "bind": ["127.0.0.1"]}
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin") is not None


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[Classroom]:
    with set_up_class("nbtjob", NAMES, port=PORT, first_uid=33800) as made:
        made.write(
            notebook={**QUICK, "spawner": "slurm"},
            slurm={"config": str(cluster.config)},
            limits={"memory": "600 MB", "cpus": 1},
            web=WEB,
        )
        yield made


@pytest.fixture
def up(room: Classroom) -> Classroom:
    if not launched.is_ready(room):
        room.run("launch", "--background")
    return room


def waiting_page(room: Classroom, name: str) -> str:
    """What the front page says after the sign-in."""
    with launched.own_server(room, name) as browser:
        front = browser.origin.rpartition(":")[0] + f":{room.port}"
        typed = {"username": name, "password": room.credentials[name]["notebook_password"]}
        return browser.http.post(f"{front}/", data=typed).text


@pytest.mark.parametrize(
    "frontend",
    [pytest.param("nginx", marks=pytest.mark.skipif(not NGINX, reason="NO NGINX: install nginx-light")), "direct"],
)
def test_a_class_day_over_two_nodes(room, cluster, frontend):
    """From launch to shutdown: sign-in, cells, corrected material, work that comes back, a deadline."""
    room.write(web={**WEB, "frontend": frontend, "routing": "ports", "names": ["localhost"]})
    said = room.json("launch", "--background")
    assert [one["server"] for one in said["students"]] == ["ready"] * len(NAMES), said
    found = reports(room)
    assert {found[name].node for name in NAMES} == {"n1", "n2"}
    assert all(found[name].job and found[name].handle is None for name in NAMES)
    for name in NAMES:
        with launched.visitor(room, name) as student:
            ran = student.run(
                f"import os, socket; open('tutorial/lab1.txt', 'a').write('by {frontend}\\n')\n"
                "print(os.getuid(), socket.gethostname(), os.getcwd())"
            )
        assert ran == f"{uid(name)} {found[name].node} {room.home(name)}\n"
    task = f"task-{frontend}.txt"
    (room.folder / "material/ps1").mkdir(exist_ok=True)
    (room.folder / f"material/ps1/{task}").write_text("fresh\n")
    (room.folder / "material/lab1.txt").write_text(f"measure it again, {frontend}\n")
    room.run("send", expect=None)
    room.run("retrieve")
    latest = room.folder / "retrieved/latest"
    for name in NAMES:
        assert (room.home(name) / f"tutorial/ps1/{task}").read_text() == "fresh\n"
        assert f"by {frontend}\n" in (latest / name / "work/lab1.txt").read_text()
    writes_all_the_time(room, ADA)
    write(BOB, "tutorial/ps1/answer.txt", frontend)
    at = soon(6)
    room.run("retrieve", "--at", f"{at:%Y-%m-%d %H:%M:%S}", "--assignment", "ps1")
    folder = eventually(lambda: captured(room, at), 60)
    assert (folder / BOB / "work/ps1/answer.txt").read_text() == frontend
    assert len((folder / ADA / "work/ps1/count").read_text()) == 9
    assert not any(remarks(folder, name) for name in NAMES)
    eventually(lambda: launched.is_ready(room) and is_moving(room, ADA), 20)
    assert {name: one.job for name, one in reports(room).items()} == {name: found[name].job for name in NAMES}
    assert "Stopped" in room.run("shutdown").stdout
    nothing_is_left(cluster, room, NAMES)


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
    nothing_is_left(cluster, up, NAMES)
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
        places = {re.search("place ([0-9]) in the cluster's queue", reasons[name])[1] for name in (ADA, BOB)}
        assert places == {"1", "2"}  # they are submitted at the same time
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
