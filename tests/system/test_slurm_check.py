"""`check`, `setup` and `launch` with a real cluster: what is missing is said before the first job."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.classroom import Classroom
from tests.slurm_cluster import SHORT, Cluster, wait_until
from tests.students import made_account

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("slurm")]

ADA, BOB = NAMES = ["nbtsda", "nbtsdb"]


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[Classroom]:
    """A class of guests, set up, on the cluster."""
    made = Classroom("nbtsd", NAMES, port=18940, first_uid=57200)
    try:
        with made_account(ADA, 57200), made_account(BOB, 57201):
            made.write(
                accounts={"create": False, "uid_range": "57200-57249"},
                notebook={"spawner": "slurm"},
                slurm={"config": str(cluster.config), "time": 30},
                limits={"memory": "300 MB"},
                web={"port": 18940, "names": ["localhost"]},
            )
            made.run("setup")
            yield made
            made.run("remove", "--yes", expect=None)
            cluster.clear()
    finally:
        made.close()


def said(room: Classroom, expect: int, **slurm: Any) -> dict[tuple[str, str], str]:
    """(level, subject) → message and hint, with another block `slurm`."""
    before = room.config["slurm"]
    room.write(slurm={**before, **slurm})
    try:
        answer = room.json("check", expect=expect)
    finally:
        room.write(slurm=before)
    return {(one["level"], one["subject"]): f"{one['message']}. {one['hint']}" for one in answer["findings"]}


def refusal(room: Classroom, expect: int, **slurm: Any) -> str:
    before = room.config["slurm"]
    room.write(slurm={**before, **slurm})
    try:
        return room.run("launch", expect=expect).stderr
    finally:
        room.write(slurm=before)


def test_a_cluster_that_can_have_the_class_is_ready_and_the_trial_leaves_nothing(cluster, room):
    found = said(room, 0)
    assert "Slurm 22" in found["ok", "cluster"] or "Slurm 2" in found["ok", "cluster"]
    assert f"a job of {ADA} ran on n" in found["ok", "trial job"]
    assert "is the same on n" in found["ok", "homes"]
    assert "has nblauncher" in found["ok", "interpreter"]
    assert "(10.231." in found["ok", "network"]
    if cluster.has_cgroups:
        assert "hold jobs to their memory" in found["ok", "limits"]
    wait_until(lambda: not cluster.jobs(), cluster.jobs)


def test_what_can_never_run_is_refused_by_check_and_by_launch_before_the_first_job(cluster, room):
    for slurm, subject, words in (
        ({"partition": "nosuch"}, "partition", "no partition nosuch"),
        ({"partition": SHORT, "time": 60}, "time", "at most 10"),
        ({"reservation": "nosuch"}, "reservation", "no reservation nosuch"),
    ):
        assert words in said(room, 1, **slurm)["problem", subject]
        assert words in refusal(room, 4, **slurm)
    assert cluster.jobs() == ""


def test_what_does_not_work_with_jobs_is_a_problem_before_launch_refuses_it(cluster, room):
    room.write(tls={"mode": "off"})
    try:
        answer = room.json("check", expect=1)
        (found,) = [one for one in answer["findings"] if one["level"] == "problem" and one["subject"] == "cluster"]
        assert "in the clear" in found["message"]
        assert "in the clear" in room.run("launch", expect=4).stderr
    finally:
        room.write(tls={"mode": "class-ca"})


def test_a_reservation_is_looked_up(cluster, room):
    cluster.run(
        "scontrol",
        "create",
        "reservation",
        "reservationname=nbtsd",
        "starttime=now",
        "duration=60",
        f"users={ADA}",
        "nodecnt=1",
    )
    try:
        found = said(room, 0, reservation="nbtsd")
        assert f"may not use the reservation nbtsd: {BOB}" in found["warning", "reservation"]
        assert ("ok", "trial job") in found
    finally:
        cluster.clear()
        cluster.run("scontrol", "delete", "reservation=nbtsd")


def test_a_home_that_the_node_does_not_share_is_found(cluster, room):
    home = str(room.home(ADA))
    for machine in cluster.nodes.values():
        assert machine.run("mount", "-t", "tmpfs", "-o", "mode=777", "nbt", home).returncode == 0
    try:
        assert "is not the home of nbtsda on this host" in said(room, 1)["problem", "homes"]
        for machine in cluster.nodes.values():
            machine.run("chmod", "0700", home)
        assert f"{home} cannot be entered" in said(room, 1)["problem", "homes"]
    finally:
        for machine in cluster.nodes.values():
            machine.run("umount", home)


def test_an_interpreter_that_the_node_does_not_have_is_found(cluster, room, tmp_path):
    assert "cannot be run on n" in said(room, 1, python="/opt/nosuch/bin/python")["problem", "interpreter"]
    system = shutil.which("python3", path="/usr/bin")
    if (
        system
        and subprocess.run([system, "-I", "-c", "import nblauncher"], check=False, capture_output=True).returncode
    ):
        assert "has no nblauncher" in said(room, 1, python=system)["problem", "interpreter"]
    assert Path(sys.executable).exists()


def test_a_node_whose_ports_are_closed_to_this_host_is_found(cluster, room):
    """As on clusters whose compute nodes only the controller reaches."""
    for machine in cluster.nodes.values():
        drop = ("ip", "route", "add", "blackhole", f"10.231.{cluster.number}.254/32")
        assert machine.run(*drop).returncode == 0
    try:
        assert "does not reach a port of n" in said(room, 1)["problem", "network"]
    finally:
        for machine in cluster.nodes.values():
            machine.run("ip", "route", "del", "blackhole", f"10.231.{cluster.number}.254/32")


def test_a_silent_controller_and_a_missing_munge_are_one_message_each_and_nothing_is_started(cluster, room):
    cluster.stop_controller()
    try:
        assert "controller does not answer" in said(room, 1)["problem", "cluster"]
        assert "controller does not answer" in refusal(room, 1)
    finally:
        cluster.start_controller()
    cluster.stop_munge()
    try:
        assert "munged is down here" in said(room, 1)["problem", "cluster"]
        assert "munged is down here" in refusal(room, 1)
    finally:
        cluster.start_munge()
    assert cluster.jobs() == ""


def test_a_configuration_that_others_can_change_is_refused_before_root_reads_it(cluster, room, tmp_path):
    copy = tmp_path / "slurm.conf"
    shutil.copy(cluster.config, copy)
    copy.chmod(0o666)
    assert "would run as root" in said(room, 1, config=str(copy))["problem", "cluster"]
    assert "would run as root" in refusal(room, 4, config=str(copy))


def test_a_cluster_that_is_not_there_is_one_message(room):
    found = said(room, 1, config="/nonexistent/slurm.conf")
    (words,) = [words for (level, subject), words in found.items() if (level, subject) == ("problem", "cluster")]
    assert "configuration" in words


def test_setup_names_students_from_whom_the_site_takes_no_job(cluster, room):
    """The accounting is played by a sacctmgr of the test's, which answers like the real one."""
    programs = room.folder / "bin"
    programs.mkdir()
    programs.chmod(0o755)
    real = shutil.which("scontrol")
    script = f'#!/bin/sh\n{real} "$@" | sed "s/^AccountingStorageEnforce .*/AccountingStorageEnforce = associations/"\n'
    for name, text in {"scontrol": script, "sacctmgr": f"#!/bin/sh\necho {ADA}\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    before = room.config["slurm"]
    room.write(slurm={**before, "programs": str(programs)})
    try:
        notes = json.dumps(room.json("setup"))
        assert (
            f"takes no jobs from 1 students, who are not in its accounting: {BOB}" in notes + room.run("setup").stderr
        )
    finally:
        room.write(slurm=before)
        room.run("setup")
