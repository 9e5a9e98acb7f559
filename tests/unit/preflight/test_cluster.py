"""What `check` says of a cluster, for clusters that lack something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nblauncher.config import settings as config
from nblauncher.config.settings import Settings
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import Account, Limits, SlurmSettings
from nblauncher.preflight import cluster, trial_job
from nblauncher.slurm.jobs import Job, JobState
from nblauncher.slurm.site import Node, Partition, Reservation, Site

NODES = (Node("n1", 16, 64_000, "idle"), Node("n2", 16, 64_000, "mixed"))
CLASS = Partition("class", True, "UP", None, None, None, None, NODES)
SHORT = Partition("short", False, "UP", 60, 10, 4_000, None, NODES[:1])
HELD = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup", "ConstrainRAMSpace": "yes"}
SITE = Site((22, 5, 8), HELD, {"class": CLASS, "short": SHORT})
ADA = Account("ada", 20000, 20000, Path("/home/ada"))


def course(limits: Limits = Limits(memory=10**9, cpus=1.0), **slurm: Any) -> Settings:  # noqa: B008
    text = b"course: a\naccounts: {create: false}\nnotebook: {spawner: slurm}\n"
    made = config.parse(text, Path("/srv/class/notebooks.cfg"))
    return replace(made, limits=limits, slurm=SlurmSettings(**slurm))


def levels(settings: Settings, site: Site = SITE, students: int = 6) -> dict[tuple[str, str], str]:
    """(level, subject) → message, of what is not ok."""
    names = [f"s{number}" for number in range(students)]
    found = list(cluster.judged(settings, site, names))
    assert all(finding.hint for finding in found if finding.level != "ok")
    return {(one.level, one.subject): one.message for one in found if one.level != "ok"}


def test_a_cluster_that_fits_is_fine():
    assert levels(course(time=90)) == {}


@pytest.mark.parametrize(
    "settings, site, subject, words",
    [
        (course(partition="nosuch"), SITE, "partition", "no partition nosuch; it has class, short"),
        (course(), replace(SITE, partitions={"short": SHORT}), "partition", "no default partition, only short"),
        (course(), replace(SITE, partitions={"class": replace(CLASS, state="DOWN")}), "partition", "class is DOWN"),
        (course(partition="short", time=90), SITE, "time", "90 minutes, and the partition short allows at most 60"),
        (course(Limits(memory=10**12)), SITE, "limits", "no node gives more than"),
        (course(Limits(memory=5 * 10**9), partition="short"), SITE, "limits", "no node gives more than 4.2 GB"),
        (course(Limits(cpus=17.0, memory=10**9)), SITE, "limits", "limits.cpus is 17, and no node gives more than 16"),
        (course(reservation="lesson"), SITE, "reservation", "no reservation lesson"),
        (
            course(),
            replace(SITE, partitions={"class": replace(CLASS, nodes=(replace(NODES[0], state="down*"),))}),
            "nodes",
            r"no node can start a job: n1 \(down\*\)",
        ),
    ],
)
def test_what_can_never_run_is_a_problem(settings, site, subject, words, monkeypatch):
    found = levels(settings, site)
    assert ("problem", subject) in found
    monkeypatch.setattr(cluster.sites, "survey", lambda _settings: site)
    with pytest.raises(RefusedError, match=words) as caught:
        cluster.require(settings)
    assert caught.value.hint


@pytest.mark.parametrize(
    "settings, site, subject, words",
    [
        (course(partition="short"), SITE, "time", "after 10 minutes, the partition's default"),
        (course(Limits(cpus=1.0)), SITE, "limits", "as the partition gives by default"),
        (course(time=9), replace(SITE, config={**HELD, "ProctrackType": "proctrack/pgid"}), "processes", "survives"),
        (course(time=9), replace(SITE, config={**HELD, "ConstrainRAMSpace": "no"}), "limits", "does not hold"),
        (course(time=9), replace(SITE, config={**HELD, "MinJobAge": "2 sec"}), "cluster", "forgets a job 2 s"),
        (course(Limits(memory=64 * 10**9), time=9), SITE, "nodes", "2 students fit on the nodes"),
        (
            course(time=9),
            replace(SITE, partitions={"class": replace(CLASS, nodes=(NODES[0], replace(NODES[1], state="drained")))}),
            "nodes",
            "1 of 2 nodes can start jobs, not n2 (drained)",
        ),
        (
            course(time=9, reservation="lesson"),
            replace(SITE, reservation=Reservation("lesson", False, frozenset(), "physics")),
            "reservation",
            "not active at this moment",
        ),
        (
            course(time=9, reservation="lesson"),
            replace(SITE, reservation=Reservation("lesson", True, frozenset({"s0"}), "")),
            "reservation",
            "5 students may not use the reservation lesson: s1, s2",
        ),
    ],
)
def test_what_is_doubtful_is_a_warning_and_launch_goes_on(settings, site, subject, words, monkeypatch):
    assert words in levels(settings, site)["warning", subject]
    monkeypatch.setattr(cluster.sites, "survey", lambda _settings: site)
    cluster.require(settings)


def test_accounts_that_are_made_here_are_doubtful_on_a_cluster():
    settings = course(time=9)
    made_here = replace(settings, accounts=replace(settings.accounts, create=True))
    assert "accounts.create is true" in levels(made_here)["warning", "cluster"]


def test_a_cluster_that_cannot_be_asked_is_one_problem(monkeypatch):
    def survey(_settings: SlurmSettings) -> Site:
        raise HostError("munged is down", "Start it.")

    monkeypatch.setattr(cluster.sites, "survey", survey)
    (one,) = cluster.findings(course(), ["ada"])
    assert (one.level, one.message, one.hint) == ("problem", "munged is down", "Start it.")
    assert cluster.notes(course(), ["ada"]) == [
        "the cluster could not be asked for the students' accounting: munged is down"
    ]
    with pytest.raises(HostError, match="munged"):
        cluster.require(course())


def test_students_outside_of_the_accounting_are_named(monkeypatch):
    enforcing = replace(SITE, config={**HELD, "AccountingStorageEnforce": "associations"})
    lacking = ["bob"]
    monkeypatch.setattr(cluster.sites, "without_association", lambda _settings, _names, _cluster: lacking)
    (one,) = cluster.associations(SlurmSettings(account="physics"), enforcing, ["ada", "bob"])
    assert one.level == "warning" and "not in its accounting in the account physics: bob" in one.message
    assert "sacctmgr add user bob account=physics" in one.hint
    lacking = ["ada", "bob"]
    assert cluster.associations(SlurmSettings(), enforcing, ["ada", "bob"])[0].level == "problem"
    assert cluster.associations(SlurmSettings(), SITE, ["ada", "bob"]) == []


def test_setup_has_nothing_to_say_without_a_cluster():
    settings = course()
    assert cluster.notes(replace(settings, notebook=replace(settings.notebook, spawner="process")), ["ada"]) == []


@pytest.mark.parametrize(
    "status, subject, words",
    [
        (72 << 8, "homes", "/home/ada cannot be entered on n1 as ada"),
        (127 << 8, "interpreter", "/opt/python cannot be run on n1"),
        (71 << 8, "trial job", "scontrol does not work on n1"),
        (9, "trial job", "it failed on n1 (killed by SIGKILL)"),
    ],
)
def test_a_trial_job_that_fails_says_what_is_missing_on_the_node(status, subject, words):
    job = Job(7, JobState.ENDED, word="FAILED", node="n1", wait_status=status)
    found = trial_job._ended(job, ADA, "/opt/python")
    assert (found.level, found.subject) == ("problem", subject) and words in found.message and found.hint


def test_the_report_of_a_trial_job_is_believed_only_with_its_nonce():
    assert trial_job._read(Job(7, JobState.RUNNING, comment="nbl abc 2000 0.1 1:x"), "abc") is not None
    for comment in ("nbl xyz 2000 0.1 1:x", "nbl abc -1 0.1 1:x", "nbl abc 2000 0.1", "", "nbl abc 2000 0.1 1:x y"):
        assert trial_job._read(Job(7, JobState.RUNNING, comment=comment), "abc") is None


def test_another_version_on_the_node_is_a_problem():
    assert trial_job._version("0.0.1", "n1", "/opt/python").level == "problem"
    assert "has no nblauncher" in trial_job._version("-", "n1", "/opt/python").message
