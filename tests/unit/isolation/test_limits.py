"""What is written where for a student's limits, on folders that look like cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from nblauncher.errors import HostError
from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Group, Groups, Kind
from nblauncher.isolation.controllers import hand_down, offered
from nblauncher.isolation.limits import Pressure
from nblauncher.model import NO_LIMITS, Limits
from nblauncher.preflight import holding
from nblauncher.system.memory import Room

WANTED = Limits(memory=1_000_000_000, cpus=0.5, processes=64)


def files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def made(folder: Path, *names: str, content: str = "max") -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(content)
    return folder


def test_cgroup_v2_is_told_in_its_own_files(tmp_path):
    folder = made(tmp_path / "group", "memory.max", "memory.swap.max", "cpu.max", "pids.max")
    limits.apply(Group(Kind.V2, folder), WANTED)
    assert files(folder) == {
        "memory.max": "1000000000",
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "64",
    }


def test_what_the_host_has_no_controller_for_is_left_out(tmp_path):
    folder = made(tmp_path / "group", "pids.max")
    limits.apply(Group(Kind.SCOPE, folder), WANTED)
    assert files(folder) == {"pids.max": "64"}
    limits.apply(Group(Kind.NONE, Path()), WANTED)


def test_without_limits_nothing_is_written(tmp_path):
    folder = made(tmp_path / "group", "memory.max", "cpu.max", "pids.max")
    limits.apply(Group(Kind.V2, folder), NO_LIMITS)
    assert set(files(folder).values()) == {"max"}


@pytest.mark.parametrize(
    ("kind", "lines", "counted"),
    [
        (Kind.V2, "anon 700\nfile 90000\nkernel 4\nshmem 50\n", 750),
        (Kind.V2, "file 90000\n", None),
        (Kind.V1, "cache 90000\nrss 1\nshmem 1\ntotal_cache 90000\ntotal_rss 800\ntotal_shmem 60\n", 860),
        (Kind.V1, "cache 90000\nrss 800\n", None),
    ],
)
def test_memory_that_counts_is_what_cannot_be_taken_back(tmp_path, kind, lines, counted):
    """Of a group and the groups below it; cached files are not counted."""
    folder = made(tmp_path / "group", "memory.stat", content=lines)
    group = Group(kind, folder) if kind is Kind.V2 else Group(Kind.V2, tmp_path, (("memory", folder),))
    assert limits.charged_memory(group) == counted
    assert limits.charged_memory(Group(kind, tmp_path / "no such group")) is None


def test_every_group_of_a_student_is_found_in_one_look(tmp_path):
    """In this course and in others, only of students of this course, with the groups of frozen logins."""
    groups, others = Groups(Kind.V2, tmp_path / "math"), Groups(Kind.V2, tmp_path / "art")
    for group in (groups.of_student(7), groups.held(8), others.of_student(7), others.held(7), others.of_student(9)):
        made(group.path)
    made(tmp_path / "math/other")
    (tmp_path / "cgroup.procs").write_text("")
    found = groups.by_uid()
    assert found.keys() == {7, 8}
    assert all(set(folders) == set(groups.everywhere(uid)) for uid, folders in found.items())
    assert len(found[7]) == 3
    assert (Groups(Kind.V2, tmp_path / "none").by_uid(), Groups(Kind.NONE).by_uid()) == ({}, {})


@pytest.mark.parametrize("before", ["9000000000", "1000"])
def test_cgroup_v1_takes_memory_with_swap_in_the_right_order(tmp_path, before):
    memory = made(tmp_path / "memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", content=before)
    order = [file.name for file, _value in limits._in_v1_order(memory, 1_000_000_000)]
    assert order[0].startswith("memory.memsw") is (before == "1000")
    limits.apply(Group(Kind.V2, tmp_path, (("memory", memory),)), Limits(memory=1_000_000_000))
    assert set(files(memory).values()) == {"1000000000"}


def test_a_limit_that_the_kernel_does_not_take_is_the_hosts_no(tmp_path):
    folder = made(tmp_path / "group")
    (folder / "pids.max").mkdir()
    with pytest.raises(HostError, match="the limits of group cannot be set"):
        limits.apply(Group(Kind.V2, folder), WANTED)


def test_pressure_is_read_from_either_version(tmp_path):
    folder = made(tmp_path / "group")
    (folder / "memory.events").write_text("low 0\noom 5\noom_kill 2\noom_group_kill 0\n")
    (folder / "pids.events").write_text("max 7\n")
    (folder / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 12500000\n")
    assert limits.pressure(Group(Kind.V2, folder)) == Pressure(2, 7, 12.5)
    v1 = made(tmp_path / "v1")
    (v1 / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (v1 / "cpu.stat").write_text("nr_periods 9\nthrottled_time 2000000000\n")
    beside = (("memory", v1), ("cpu", v1), ("pids", v1))
    assert limits.pressure(Group(Kind.V2, tmp_path / "none", beside)) == Pressure(3, 0, 2.0)
    assert limits.pressure(Group(Kind.NONE, Path())) == Pressure()
    assert limits.counts_memory_kills(Group(Kind.V2, folder))
    assert limits.counts_memory_kills(Group(Kind.V2, tmp_path / "none", beside))
    assert not limits.counts_memory_kills(Group(Kind.NONE, Path()))


def test_pressure_is_told_when_it_is_some():
    assert Pressure().words(WANTED) == []
    assert Pressure(1, 2, 30.0).words(WANTED) == [
        "memory of 1.0 GB ran out once",
        "wanted more than 64 processes 2 times",
        "wanted more than 0.5 CPUs for 30 s",
    ]
    assert Pressure(throttled_seconds=3.0).words(WANTED) == []


def test_check_says_by_what_a_limit_is_held():
    strong = {"memory": "cgroup v2", "cpus": "cgroup v2", "processes": "cgroup v2"}
    weak = {"memory": "RLIMIT_DATA", "cpus": "", "processes": "RLIMIT_NPROC"}
    room = Room(8_000_000_000, 8_000_000_000)
    assert [one.level for one in holding.limits(WANTED, strong, room)] == ["ok"]
    assert [one.level for one in holding.limits(WANTED, weak, room)] == ["warning"] * 3
    too_much = list(holding.limits(Limits(memory=9_000_000_000, cpus=1, processes=64), strong, room))
    assert too_much[-1].level == "warning" and "the host has 8.0 GB" in too_much[-1].message


def v2_folder(path, *, processes="", is_root=False):
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.controllers").write_text("cpu memory pids\n")
    (path / "cgroup.procs").write_text(processes)
    (path / "cgroup.subtree_control").write_text("")
    if not is_root:
        (path / "cgroup.type").write_text("domain\n")


def test_a_folder_with_processes_hands_nothing_down_as_nobody_could_enter_the_groups_below(tmp_path):
    scope = Groups(Kind.SCOPE, tmp_path / "nblauncher-x.scope")
    v2_folder(scope.root, processes="4711\n")
    assert hand_down(scope) == frozenset()
    assert (scope.root / "cgroup.subtree_control").read_text() == ""
    inside = Groups(Kind.V2, tmp_path / "in" / "nblauncher" / "x")
    v2_folder(tmp_path / "in", processes="1\n")
    assert hand_down(inside) == frozenset()


def test_a_scope_that_is_not_there_yet_will_have_what_the_host_has(tmp_path):
    scope = Groups(Kind.SCOPE, tmp_path / "system.slice" / "nblauncher-x.scope")
    v2_folder(tmp_path, is_root=True)
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "cgroup.controllers").write_text("memory pids\n")
    assert offered(scope) == {"memory", "cpu", "pids"}


def test_the_mechanism_is_what_the_course_would_have(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert set(limits.mechanism(Groups(Kind.V2, tmp_path / "nblauncher" / "x")).values()) == {"cgroup v2"}
    assert limits.mechanism(Groups(Kind.NONE)) == {"memory": "RLIMIT_DATA", "cpus": "", "processes": "RLIMIT_NPROC"}
