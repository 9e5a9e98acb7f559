"""What the kernel does with the limits of a group, whatever kind this host has: no server is started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from nblauncher.isolation import cgroups, controllers, limits, systemd_scope
from nblauncher.isolation.cgroups import Group, Groups, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Limits
from tests.running import eventually

pytestmark = pytest.mark.system

LIMITS = Limits(memory=100_000_000, cpus=0.5, processes=40)
HOG = "x = []\nwhile True: x.append(bytearray(1_000_000))"
MANY = """
import os, signal
begun = []
try:
    while len(begun) < 300:
        pid = os.fork()
        if not pid: signal.pause()
        begun.append(pid)
except OSError as error: print(len(begun), error.strerror)
for pid in begun: os.kill(pid, 9)
"""
BURN = """
import time
begun, used = time.monotonic(), time.process_time()
while time.monotonic() - begun < 4: pass
print((time.process_time() - used) / 4)
"""


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    """A course's, with somebody in the supervisor's place."""
    keeper = subprocess.Popen(["sleep", "infinity"])
    made = cgroups.choose("nbt-limits")
    try:
        made = systemd_scope.enter(made, keeper.pid)
        controllers.hand_down(made)
        yield made
    finally:
        keeper.kill()
        keeper.wait()
        made.remove()


@pytest.fixture
def group(groups: Groups) -> Iterator[Group]:
    one = groups.of_student(26399)
    one.create()
    limits.apply(one, LIMITS)
    try:
        yield one
    finally:
        one.kill()
        eventually(one.is_empty)
        one.remove()
        assert not one.path.exists() or one.kind is Kind.NONE


def run(group: Group, code: str) -> subprocess.CompletedProcess[str]:
    """As a student's process would be, but for the account: what is counted is the group's."""
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, preexec_fn=Sandbox(group, LIMITS).enter, capture_output=True, text=True, timeout=300)


def test_what_a_group_has_is_what_check_says(groups, group):
    said = limits.mechanism(groups)
    if said["memory"] == groups.kind.value:
        assert int((group.path / "memory.max").read_text()) <= LIMITS.memory
    if said["cpus"] == groups.kind.value:
        assert (group.path / "cpu.max").read_text() == "50000 100000\n"
    if said["processes"] == groups.kind.value:
        assert (group.path / "pids.max").read_text() == "40\n"


def test_who_wants_more_memory_is_ended_and_counted(groups, group):
    done = run(group, HOG)
    if limits.mechanism(groups)["memory"] == "RLIMIT_DATA":
        assert "MemoryError" in done.stderr
    else:
        assert done.returncode == -9
        assert limits.pressure(group).memory_kills == 1


def test_no_more_processes_than_allowed(groups, group):
    if limits.mechanism(groups)["processes"] == "RLIMIT_NPROC":
        pytest.skip("nothing here counts the processes of a group; RLIMIT_NPROC is not for root")
    assert run(group, MANY).stdout == "39 Resource temporarily unavailable\n"
    assert limits.pressure(group).refused_processes >= 1


def test_no_more_of_the_cpus_than_allowed(groups, group):
    if not limits.mechanism(groups)["cpus"]:
        pytest.skip("nothing here limits the CPUs of a group")
    for _attempt in range(5):  # on a busy host the group may get less than its share by itself
        assert float(run(group, BURN).stdout) < 0.75
        if limits.pressure(group).throttled_seconds > 0:
            return
    pytest.fail("the group was never throttled")


def test_a_class_may_have_more_tasks_than_systemd_allows_a_unit(groups):
    if groups.kind is not Kind.SCOPE:
        pytest.skip("not systemd's")
    assert (groups.root / "pids.max").read_text() == "max\n"


def test_the_scope_ends_with_its_last_process(groups):
    other = cgroups.choose("nbt-limits2")
    keeper = subprocess.Popen(["sleep", "infinity"])
    try:
        made = systemd_scope.enter(other, keeper.pid)
        assert keeper.pid in cgroups.members(made.root) or made.kind is not Kind.SCOPE
    finally:
        keeper.kill()
        keeper.wait()
    eventually(lambda: made.kind is not Kind.SCOPE or not made.root.exists())
