"""What a cluster says of itself, in the words of Slurm 22.05."""

from __future__ import annotations

import pytest

from nblauncher.model import SlurmSettings
from nblauncher.slurm import site
from nblauncher.slurm.site import Node, Partition, Reservation, Site

PARTITIONS = """\
PartitionName=class AllowGroups=ALL AllowAccounts=ALL Default=YES DefaultTime=NONE Hidden=NO MaxTime=UNLIMITED \
MaxCPUsPerNode=UNLIMITED Nodes=n[1-2] State=UP TotalCPUs=256 DefMemPerCPU=100 MaxMemPerNode=UNLIMITED
PartitionName=short AllowGroups=ALL Default=NO DefaultTime=00:05:00 MaxTime=1-00:10:00 MaxCPUsPerNode=8 Nodes=n1 \
State=DOWN MaxMemPerNode=4000
"""
NODES = "n1|class|128|256000|idle\nn1|short|128|256000|idle\nn2|class|64+|128000+|down*\n"
CONFIG = """\
Configuration data as of 2026-11-30T16:34:18
AccountingStorageEnforce = associations,limits
MinJobAge               = 300 sec
ProctrackType           = proctrack/cgroup
TaskPlugin              = task/affinity,task/cgroup
SLURM_CONF              = /etc/slurm/slurm.conf

Cgroup Support Configuration:
ConstrainRAMSpace       = yes
"""
RESERVATION = (
    "ReservationName=lesson StartTime=1 EndTime=2 Duration=01:00:00 Nodes=n1 NodeCnt=1 Users=ada,bob Groups=(null)"
    " Accounts=(null) State=ACTIVE"
)


def test_partitions_have_their_limits_and_nodes():
    found = site.read_partitions(PARTITIONS, NODES)
    both = (Node("n1", 128, 256000, "idle"), Node("n2", 64, 128000, "down*"))
    assert found["class"] == Partition("class", True, "UP", None, None, None, None, both)
    assert found["short"] == Partition("short", False, "DOWN", 1450, 5, 4000, 8, both[:1])
    assert [node.is_usable for node in both] == [True, False]


@pytest.mark.parametrize(
    "state, is_usable",
    [
        *(
            ("idle", True),
            ("mixed", True),
            ("allocated", True),
            ("completing", True),
            ("idle~", True),
            ("mixed+", True),
        ),
        *(("idle*", False), ("down", False), ("drained", False), ("draining", False), ("unknown", False), ("", False)),
    ],
)
def test_a_node_can_start_jobs_or_not(state, is_usable):
    assert Node("n1", 1, 1, state).is_usable is is_usable


def test_the_config_says_what_is_enforced_and_held():
    found = Site((22, 5), site.read_config(CONFIG))
    assert found.enforces_associations and found.holds_memory and found.kills_whatever_a_job_started
    assert found.remembers_ended_jobs_for == 300
    bare = Site((22, 5), {"AccountingStorageEnforce": "none", "ProctrackType": "proctrack/linuxproc"})
    assert not (bare.enforces_associations or bare.holds_memory or bare.kills_whatever_a_job_started)


def test_a_reservation_names_who_may_use_it():
    assert site.read_reservation(RESERVATION) == Reservation("lesson", True, frozenset({"ada", "bob"}), "")
    for_accounts = RESERVATION.replace("Users=ada,bob", "Users=(null)").replace("Accounts=(null)", "Accounts=physics")
    assert site.read_reservation(for_accounts) == Reservation("lesson", True, frozenset(), "physics")
    assert site.read_reservation("No reservations in the system") is None


def test_the_default_partition_is_meant_where_none_is_named():
    found = Site((22, 5), {}, site.read_partitions(PARTITIONS, NODES))
    assert [one.name for one in found.wanted(SlurmSettings())] == ["class"]
    assert [one.name for one in found.wanted(SlurmSettings(partition="short,nosuch,class"))] == ["short", "class"]


def test_students_without_an_association_are_found(tmp_path):
    program = tmp_path / "sacctmgr"
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\nprintf "ada\\nada\\n"\n')
    program.chmod(0o755)
    settings = SlurmSettings(programs=str(tmp_path), account="physics")
    assert site.without_association(settings, ["bob", "ada"], "one") == ["bob"]
    assert "where user=ada,bob account=physics cluster=one format=user" in (tmp_path / "asked").read_text()
    assert site.without_association(settings, []) == []
