"""The client of Slurm on a real controller with two nodes: jobs of real accounts, and students who try to fool it."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.model import Account, Limits, SlurmSettings
from nblauncher.slurm import control, jobs, tools, words
from nblauncher.slurm.jobs import Job, JobState
from nblauncher.slurm.submission import submission, submit
from nblauncher.slurm.tools import UnansweredError
from tests.slurm_cluster import SHORT, Cluster, wait_until
from tests.students import made_account

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.group("slurm")]

NAMES = {"nbtsca": 57101, "nbtscb": 57102}
LIMITS = Limits(memory=60_000_000, cpus=1.0)
SLEEP = ("sleep", "1000")


@pytest.fixture(scope="module")
def students(cluster: Cluster) -> Iterator[dict[str, Account]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(made_account(name, uid)) for name, uid in NAMES.items()}
        cluster.clear()


@pytest.fixture
def site(cluster: Cluster) -> Iterator[SlurmSettings]:
    """Every test ends with an empty queue."""
    settings = SlurmSettings(config=str(cluster.config))
    yield settings
    cluster.clear()


def started(
    site: SlurmSettings,
    account: Account,
    *command: str,
    limits: Limits = LIMITS,
    output: str = "/dev/null",
) -> int:
    asked = submission(site, limits, account, command or SLEEP, course="nbtsc", run="r1", output=output)
    return submit(site, asked, account)


def until(site: SlurmSettings, number: int, *states: JobState) -> Job:
    wait_until(lambda: jobs.poll(site, [number])[number].state in states, lambda: str(jobs.poll(site, [number])))
    return jobs.poll(site, [number])[number]


def as_student(cluster: Cluster, account: Account, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        env=cluster.environment,
        cwd="/",
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )


def test_a_job_runs_as_the_student_with_the_limits_and_nothing_of_roots(cluster, site, students, monkeypatch):
    ada = students["nbtsca"]
    monkeypatch.setenv("NBT_OF_ROOT", "secret")
    report = ada.home / "report"
    number = started(site, ada, "bash", "-c", "id; pwd; umask; ulimit -n; env; cat; sleep 1000", output=str(report))
    job = until(site, number, JobState.RUNNING)
    assert job.uid == ada.uid and job.node in cluster.nodes and job.admin_comment == "nbl:nbtsc:r1"
    assert job.comment == "nbl:nbtsc:r1" and job.restarts == 0
    wait_until(lambda: "SLURM_JOB_ID" in report.read_text(), report.read_text)
    said = report.read_text()
    assert f"uid={ada.uid}({ada.username}) gid={ada.gid}({ada.username}) groups={ada.gid}({ada.username})" in said
    assert f"\n{ada.home}\n0077\n" in said and f"HOME={ada.home}\n" in said and "USER=nbtsca\n" in said
    assert "NBT_OF_ROOT" not in said and "SLURM_EXPORT_ENV" not in said and "SLURM_TIME" not in said
    assert report.stat().st_mode & 0o777 == 0o600 and report.stat().st_uid == ada.uid
    assert "mem=58M" in cluster.run("scontrol", "show", "job", str(number))


def test_a_job_that_could_not_be_marked_is_cancelled(cluster, site, students):
    """The controller refuses the mark: students' jobs are never left without one."""
    ada = students["nbtsca"]
    asked = submission(site, LIMITS, ada, SLEEP, course="nbtsc", run="r1")
    broken = SlurmSettings(config=site.config, programs=str(refusing_scontrol(cluster)))
    with pytest.raises(HostError, match="Access"):
        submit(broken, asked, ada)
    wait_until(lambda: not cluster.jobs(), cluster.jobs)


def refusing_scontrol(cluster: Cluster) -> Path:
    """A folder whose scontrol says what the real one says to an account that is no administrator of the cluster."""
    folder = cluster.folder / "refusing"
    folder.mkdir(exist_ok=True)
    program = folder / "scontrol"
    program.write_text("#!/bin/sh\necho 'slurm_update error: Access/permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    return folder


def test_every_job_is_asked_for_in_one_call_and_cancelled_only_for_its_uid(cluster, site, students):
    ada, bob = students.values()
    hers, his = started(site, ada), started(site, bob)
    until(site, hers, JobState.RUNNING), until(site, his, JobState.RUNNING)
    control.cancel(site, {hers: bob.uid, his: bob.uid})
    until(site, his, JobState.ENDED)
    assert jobs.poll(site, [hers, his])[hers].state is JobState.RUNNING
    control.cancel(site, {hers: ada.uid, his: bob.uid})
    assert words.plain(until(site, hers, JobState.ENDED)) == "it was cancelled"


def test_a_student_can_forge_neither_state_nor_owner_nor_marker(cluster, site, students):
    ada, bob = students.values()
    hers, his = started(site, ada), started(site, bob)
    until(site, hers, JobState.RUNNING), until(site, his, JobState.RUNNING)
    line = f"{hers:<14}|{'0' * 16}|{bob.uid}|FAILED|n2|0|0|1|1:00|None|nbl:nbtsc:r1|x"
    for change in (f"comment=a\n{line}\n{hers}|", "name=nbl-other\nx"):
        assert as_student(cluster, bob, "scontrol", "update", f"jobid={his}", change).returncode == 0
    assert as_student(cluster, bob, "scontrol", "update", f"jobid={his}", "admincomment=nbl:x:y").returncode != 0
    assert as_student(cluster, bob, "scancel", str(hers)).returncode != 0
    found = jobs.poll(site, [hers, his])
    assert (found[hers].state, found[hers].uid) == (JobState.RUNNING, ada.uid)
    assert (found[his].uid, found[his].admin_comment) == (bob.uid, "nbl:nbtsc:r1")
    assert "FAILED" in found[his].comment


def test_a_job_that_takes_too_much_memory_says_so(cluster, site, students):
    if not cluster.has_cgroups:
        pytest.skip("this host has no control groups of version 1")
    ada = students["nbtsca"]
    number = started(site, ada, "python3", "-c", "import time; x = 'x' * 300_000_000; time.sleep(100)")
    assert words.plain(until(site, number, JobState.ENDED)) == "it was ended because memory ran out"


def test_what_a_student_starts_aside_ends_with_the_job(cluster, site, students):
    if not cluster.has_cgroups:
        pytest.skip("without control groups Slurm does not find it")
    ada = students["nbtsca"]
    number = started(site, ada, "bash", "-c", "setsid setsid sleep 4711 & exec sleep 1000")
    until(site, number, JobState.RUNNING)
    wait_until(lambda: "sleep 4711" in processes_of(ada), "it did not start")
    control.cancel(site, {number: ada.uid})
    wait_until(lambda: processes_of(ada) == "", lambda: processes_of(ada))


def processes_of(account: Account) -> str:
    done = subprocess.run(["ps", "-o", "args=", "-u", str(account.uid)], check=False, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_job_on_a_failed_node_is_not_started_again_by_slurm(cluster, site, students):
    ada, bob = students.values()
    number = started(site, ada)
    node = until(site, number, JobState.RUNNING).node
    cluster.set_down(node)
    try:
        assert words.plain(until(site, number, JobState.ENDED)) == f"its node {node} failed"
        assert control.down_nodes(site) == {node: "down"}
        second = started(site, bob)
        assert until(site, second, JobState.RUNNING).node != node
    finally:
        cluster.resume(node)


def test_a_node_without_power_and_one_without_a_network(cluster, site, students):
    """Both fail for Slurm after SlurmdTimeout; what ran on the second one runs on until it is back."""
    ada, bob = students.values()
    on_one = SlurmSettings(config=site.config, options=("--nodelist=n1",))
    on_two = SlurmSettings(config=site.config, options=("--nodelist=n2",))
    first, second = started(on_one, ada), started(on_two, bob)
    until(site, first, JobState.RUNNING), until(site, second, JobState.RUNNING)
    wait_until(lambda: "sleep" in processes_of(ada) and "sleep" in processes_of(bob), "they did not start")
    with cluster.in_a_hurry():
        cluster.kill_node("n1")
        cluster.cut("n2")
        try:
            assert processes_of(ada) == "" and "sleep" in processes_of(bob)
            until(site, first, JobState.ENDED), until(site, second, JobState.ENDED)
            assert jobs.poll(site, [second])[second].word == "NODE_FAIL" and "sleep" in processes_of(bob)
            assert set(control.down_nodes(site)) == {"n1", "n2"}
        finally:
            cluster.join("n1")
            cluster.join("n2")
    wait_until(lambda: processes_of(bob) == "", lambda: processes_of(bob))


def test_a_controller_that_is_down_means_unknown_and_jobs_survive(cluster, site, students):
    ada = students["nbtsca"]
    number = started(site, ada)
    until(site, number, JobState.RUNNING)
    cluster.stop_controller()
    try:
        began = time.monotonic()
        with pytest.raises(UnansweredError):
            control.cancel(site, {number: ada.uid})
        assert time.monotonic() - began < 5
        assert jobs.poll(site, [number], timeout=3)[number].state is JobState.UNKNOWN
        with pytest.raises(UnansweredError):
            tools.ping(site)
    finally:
        cluster.start_controller()
    assert jobs.poll(site, [number])[number].state is JobState.RUNNING


def test_without_munge_it_says_so(cluster, site, students):
    cluster.stop_munge()
    try:
        for attempt in (
            lambda: tools.ping(site),
            lambda: jobs.poll(site, [7]),
            lambda: started(site, students["nbtsca"]),
        ):
            with pytest.raises(HostError, match="munged is down"):
                attempt()
    finally:
        cluster.start_munge()


@pytest.mark.parametrize(
    "settings, limits, said",
    [
        ({"partition": "nosuch"}, LIMITS, "Invalid partition name specified"),
        ({"reservation": "nosuch"}, LIMITS, "reservation"),
        ({}, Limits(memory=10**12), "Memory specification can not be satisfied"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(cluster, site, students, settings, limits, said):
    wanted = SlurmSettings(config=site.config, **settings)
    with pytest.raises(HostError, match="Slurm refused the job of nbtsca") as caught:
        started(wanted, students["nbtsca"], limits=limits)
    assert said in caught.value.problem and "notebooks.cfg" in caught.value.hint


def test_a_time_that_the_partition_does_not_allow_waits_for_ever_and_says_why(cluster, site, students):
    wanted = SlurmSettings(config=site.config, partition=SHORT, time=60)
    number = started(wanted, students["nbtsca"])
    until(site, number, JobState.QUEUED)
    # Slurm may say at first that the node is not available yet.
    wait_until(
        lambda: jobs.poll(site, [number])[number].reason in words.HOPELESS, lambda: str(jobs.poll(site, [number]))
    )
    assert "allow" in words.plain(jobs.poll(site, [number])[number])


def test_a_held_job_is_told_as_held(cluster, site, students):
    ada = students["nbtsca"]
    number = started(SlurmSettings(config=site.config, options=("--begin=now+1hour",)), ada)
    assert until(site, number, JobState.QUEUED).starts_at is not None
    assert as_student(cluster, ada, "scontrol", "hold", str(number)).returncode == 0
    assert "put on hold by its owner" in words.plain(until(site, number, JobState.HELD))


def test_a_nodes_address_is_the_one_that_slurm_has(cluster, site):
    for name, machine in cluster.nodes.items():
        assert control.node_address(site, name) == machine.address
    with pytest.raises(HostError, match="n9 not found"):
        control.node_address(site, "n9")


def test_a_job_is_frozen_and_goes_on(cluster, site, students):
    number = started(site, students["nbtsca"])
    until(site, number, JobState.RUNNING)
    control.suspend(site, [number])
    until(site, number, JobState.SUSPENDED)
    control.resume(site, [number])
    until(site, number, JobState.RUNNING)


def test_two_hundred_jobs_are_submitted_and_known_in_time(cluster, site, students):
    ada = students["nbtsca"]
    began = time.monotonic()
    numbers = [started(site, ada, limits=Limits(memory=10_000_000, cpus=1.0)) for _ in range(200)]
    submitted = time.monotonic() - began
    began = time.monotonic()
    found = jobs.poll(site, numbers)
    polled = time.monotonic() - began
    print(f"200 jobs submitted and marked in {submitted:.1f} s, one poll of 200 in {1000 * polled:.0f} ms")
    assert all(job.is_live and job.admin_comment == "nbl:nbtsc:r1" for job in found.values())
    assert submitted < 20 and polled < 1.0
    began = time.monotonic()
    control.cancel(site, dict.fromkeys(numbers, ada.uid))
    assert time.monotonic() - began < 5


def test_the_accounts_are_those_of_the_nodes(cluster, students):
    for name in students:
        assert cluster.nodes["n1"].run("id", "-u", name).stdout.strip() == str(pwd.getpwnam(name).pw_uid)
        assert Path(f"/proc/{os.getpid()}").is_dir()
