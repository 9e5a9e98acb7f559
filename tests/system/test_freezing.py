"""Everybody stands still, whoever started them, and goes on whatever happens to whoever froze them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nblauncher import cgroups, freezing
from nblauncher.cgroups import Groups, Kind
from nblauncher.errors import HostError
from nblauncher.freezing import Student, frozen
from nblauncher.model import Account
from tests.homework import become
from tests.students import made_account

pytestmark = pytest.mark.system

COURSE = "nbtz1"
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > tutorial/count; done"


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtzada", 23400) as account:
        yield account


@pytest.fixture(params=["groups", "no groups"])
def groups(request) -> Iterator[Groups]:
    chosen = cgroups.choose(COURSE) if request.param == "groups" else Groups(Kind.NONE)
    yield chosen
    chosen.remove()


@pytest.fixture
def student(ada) -> Student:
    return Student(ada.username, ada.uid)


def start(ada: Account, groups: Groups, script: str, *, inside: bool) -> subprocess.Popen[bytes]:
    group = groups.group(ada.username)
    group.create()

    def enter() -> None:
        if inside:
            group.enter(os.getpid())

    argv = [*become(ada.username), "sh", "-c", script]
    return subprocess.Popen(argv, cwd=ada.home, preexec_fn=enter, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def is_moving(ada: Account) -> bool:
    """Whether the count is written three times in the next seconds."""
    file = ada.home / "tutorial" / "count"
    seen: set[int] = set()
    deadline = time.monotonic() + 10
    while len(seen) < 4 and time.monotonic() < deadline:
        seen.add(file.stat().st_mtime_ns if file.exists() else 0)
        time.sleep(0.02)
    return len(seen) >= 4


def stands(ada: Account) -> bool:
    file = ada.home / "tutorial" / "count"
    before = file.stat().st_mtime_ns
    time.sleep(0.15)
    return file.stat().st_mtime_ns == before


@pytest.mark.parametrize("inside", [True, False], ids=["in the class", "a login"])
def test_nothing_of_the_students_runs_inside_the_block_and_everything_after_it(ada, groups, student, inside):
    process = start(ada, groups, COUNTER, inside=inside)
    try:
        assert is_moving(ada)
        with frozen(groups, [student]) as ice:
            assert stands(ada)
            assert ice.held
        assert is_moving(ada)
    finally:
        end(process)


def test_a_fork_hopper_in_the_class_is_caught(ada, student):
    """Each child starts the next and ends, as fast as it can. (Outside of a group it may escape; its files show it.)"""
    groups = cgroups.choose(COURSE)
    hop = "import os,time\nwhile True:\n open('tutorial/count','w').write(str(time.time()))\n if os.fork(): os._exit(0)"
    process = start(ada, groups, f'exec {sys.executable} -I -c "{hop}"', inside=True)
    try:
        assert is_moving(ada)
        with frozen(groups, [student]):
            assert stands(ada)
        assert is_moving(ada)
    finally:
        while not groups.group(ada.username).is_empty():
            groups.group(ada.username).kill()
        process.wait()
        groups.remove()


def test_a_job_that_its_student_put_to_sleep_stays_asleep(ada, groups, student):
    process = start(ada, groups, COUNTER, inside=False)
    try:
        assert is_moving(ada)
        process.send_signal(signal.SIGSTOP)
        while not freezing.stopped([student]):
            pass
        with frozen(groups, [student]):
            pass
        assert stands(ada)
        process.send_signal(signal.SIGCONT)
        assert is_moving(ada)
    finally:
        end(process)


def freeze_for_long(groups: Groups, student: Student, longest: float) -> int:
    """A process that freezes the student and does not come back."""
    pid = os.fork()
    if pid == 0:
        try:
            with frozen(groups, [student], longest=longest):
                time.sleep(60)
        finally:
            os._exit(1)
    return pid


@pytest.mark.parametrize("inside", [True, False])
def test_who_froze_them_is_killed_and_they_go_on(ada, groups, student, inside):
    process = start(ada, groups, COUNTER, inside=inside)
    try:
        assert is_moving(ada)
        freezer = freeze_for_long(groups, student, 60)
        deadline = time.monotonic() + 10
        while not stands(ada) and time.monotonic() < deadline:
            pass
        assert stands(ada)
        os.kill(freezer, signal.SIGKILL)
        os.waitpid(freezer, 0)
        assert is_moving(ada)
    finally:
        end(process)


def test_who_froze_them_hangs_and_they_go_on(ada, groups, student):
    process = start(ada, groups, COUNTER, inside=True)
    freezer = freeze_for_long(groups, student, 1.0)
    try:
        time.sleep(1.5)
        assert is_moving(ada)
    finally:
        os.kill(freezer, signal.SIGKILL)
        os.waitpid(freezer, 0)
        end(process)


def test_who_cannot_be_frozen_is_named_and_everybody_goes_on(ada, student, monkeypatch):
    """Nothing of ours can hold back who is started faster than we look: here, because we look only once."""
    process = start(ada, Groups(Kind.NONE), COUNTER, inside=False)
    try:
        assert is_moving(ada)
        monkeypatch.setattr(freezing, "_ROUNDS", 1)
        with pytest.raises(HostError, match=ada.username), frozen(Groups(Kind.NONE), [student]):
            pass
        assert is_moving(ada)
    finally:
        end(process)


def test_a_student_of_whom_nothing_runs_is_no_obstacle(groups, student):
    with frozen(groups, [student]) as ice:
        assert ice.held


def test_nobody_else_is_touched(ada, groups, student, tmp_path: Path):
    own = subprocess.Popen(["sh", "-c", f"while :; do date +%N > {tmp_path}/count; done"], start_new_session=True)
    try:
        while not (tmp_path / "count").exists():
            pass
        with frozen(groups, [student]):
            before = (tmp_path / "count").stat().st_mtime_ns
            time.sleep(0.1)
            assert (tmp_path / "count").stat().st_mtime_ns != before
    finally:
        os.killpg(own.pid, signal.SIGKILL)
        own.wait()
