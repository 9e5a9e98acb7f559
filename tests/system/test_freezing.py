"""Everybody stands still, wherever they run, and goes on whatever happens to whoever froze them.

What is in the class is started by a server that the supervisor made: nobody here puts a process into a group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from nblauncher.errors import HostError
from nblauncher.isolation import cgroups, freeze_record
from nblauncher.isolation.cgroups import Groups, Kind, own_path
from nblauncher.isolation.freezer import Freezer, Student
from nblauncher.model import Account
from tests.homework import become
from tests.running import RunningClass, eventually, made_account, running_class

pytestmark = pytest.mark.system

COURSE = "nbtv-ice"
FRONT, PORT = 19400, 19401

WRITER = "i = 0\nwhile True:\n i += 1\n open('tutorial/count', 'w').write(str(i))"
HOPPER = """
import os, time
while True:
    open('tutorial/count', 'w').write(str(time.time()))
    if os.fork():
        os._exit(0)
"""


@pytest.fixture(scope="module")
def ada() -> Iterator[Account]:
    with made_account("nbtvice", 25080) as account:
        yield account


@pytest.fixture(scope="module")
def course(ada: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningClass]:
    with running_class(tmp_path_factory.mktemp("ice"), COURSE, FRONT) as one:
        one.ready((ada, PORT))
        yield one


@pytest.fixture
def student(course: RunningClass, ada: Account) -> Student:
    return Student(ada.username, ada.uid, course.handle(ada).pid, course.supervisor.hello().pid)


@pytest.fixture
def freezer(course: RunningClass) -> Freezer:
    return Freezer(cgroups.choose(COURSE), course.paths.run / freeze_record.BY_CAPTURE)


@pytest.fixture
def without(course: RunningClass) -> Freezer:
    """As on a host that has no freezer."""
    return Freezer(Groups(Kind.NONE), course.paths.run / freeze_record.BY_CAPTURE)


def words(script: str) -> list[str]:
    return [sys.executable, "-I", "-c", script]


def writer(ada: Account, server: int) -> int:
    """The pid of what writes the counter now: one of the test before may not be quite gone."""
    with_counter: list[psutil.Process] = []
    for pid in others(ada, server):
        with suppress(psutil.NoSuchProcess):
            if "count" in " ".join((one := psutil.Process(pid)).cmdline()):
                with_counter.append(one)
    return max(with_counter, key=psutil.Process.create_time).pid


@contextmanager
def in_class(course: RunningClass, ada: Account, script: str) -> Iterator[None]:
    """From a cell of a notebook."""
    with course.visitor(ada, PORT) as browser:
        browser.run(
            f"import os, subprocess\nos.chdir({str(ada.home)!r})\n"
            f"subprocess.Popen({words(script)!r}, start_new_session=True); print('started')"
        )
        try:
            yield
        finally:
            end(ada, course.handle(ada).pid)


@contextmanager
def login(course: RunningClass, ada: Account, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """What a login or cron starts: nothing of the class is above it."""
    process = subprocess.Popen([*become(ada.username), *words(script)], cwd=ada.home, start_new_session=True)
    try:
        yield process
    finally:
        end(ada, course.handle(ada).pid)
        process.wait()


def end(ada: Account, server: int) -> None:
    """Everything of the student's but the server, also what hops from pid to pid."""

    def is_quiet() -> bool:
        looks = [found for _ in range(4) for found in [others(ada, server)]]
        for pid in {pid for found in looks for pid in found}:
            with_pid(pid, signal.SIGKILL)
        return not any(looks)

    eventually(is_quiet)


def with_pid(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def others(ada: Account, server: int) -> list[int]:
    found = []
    for one in psutil.process_iter(["uids", "status"]):
        uids = one.info["uids"]
        if uids and uids.real == ada.uid and one.pid != server and one.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(one.pid)
    return found


def is_moving(ada: Account) -> bool:
    """Whether the count is written three times in the next seconds."""
    file = ada.home / "tutorial" / "count"
    seen: set[int] = set()
    deadline = time.monotonic() + 15
    while len(seen) < 4 and time.monotonic() < deadline:
        seen.add(file.stat().st_mtime_ns if file.exists() else 0)
        time.sleep(0.02)
    return len(seen) >= 4


def stands(ada: Account) -> bool:
    file = ada.home / "tutorial" / "count"
    before = file.stat().st_mtime_ns
    time.sleep(0.15)
    return file.stat().st_mtime_ns == before


def frozen_for_long(freezer: Freezer, student: Student, longest: float = 60.0) -> int:
    """A process that freezes the student and does not come back."""
    pid = os.fork()
    if pid == 0:
        try:
            with freezer.frozen([student], longest=longest):
                time.sleep(60)
        finally:
            os._exit(1)
    return pid


Place = Callable[[RunningClass, Account, str], object]


@pytest.mark.parametrize("place", [in_class, login])
@pytest.mark.parametrize("kind", ["freezer", "without"])
def test_nothing_of_the_students_runs_inside_the_block_and_everything_after_it(
    course, ada, student, place, kind, request
):
    freezer = request.getfixturevalue(kind)
    with place(course, ada, WRITER):
        assert is_moving(ada)
        with freezer.frozen([student]) as frozen:
            assert stands(ada)
            assert not frozen.expired and not frozen.complaints
        assert is_moving(ada)
    assert not freezer.record.exists()


def test_a_fork_hopper_in_the_class_is_caught(course, ada, student, freezer):
    """Each child starts the next and ends, as fast as it can."""
    with in_class(course, ada, HOPPER):
        assert is_moving(ada)
        with freezer.frozen([student]):
            assert stands(ada)
        assert is_moving(ada)


@pytest.mark.parametrize("place", [in_class, login])
def test_a_login_cannot_wake_the_class_nor_itself(course, ada, student, freezer, place):
    with place(course, ada, WRITER):
        assert is_moving(ada)
        with freezer.frozen([student]):
            wake = [*become(ada.username), "sh", "-c", "while :; do kill -CONT -1; done"]
            # A session of its own: SIGCONT may be sent to every process of the sender's (kill(2)).
            waker = subprocess.Popen(wake, start_new_session=True)
            eventually(lambda: waker.pid in freezer.groups.held(ada.uid).pids())
            assert stands(ada)
        waker.kill()
        waker.wait()
        assert is_moving(ada)


def test_who_signs_in_meanwhile_stands_still_at_the_second_look(course, ada, student, freezer):
    with freezer.frozen([student]), login(course, ada, WRITER) as late:
        eventually(lambda: late.pid in freezer.groups.held(ada.uid).pids())
        eventually(lambda: stands(ada))  # a write(2) that has begun is finished first
        assert stands(ada)


def test_a_login_is_put_back_where_it_was(course, ada, student, freezer):
    with login(course, ada, WRITER) as one:
        before = own_path(freezer.groups, one.pid)
        with freezer.frozen([student]):
            assert own_path(freezer.groups, one.pid) != before
        assert own_path(freezer.groups, one.pid) == before
        assert not freezer.groups.held(ada.uid).path.exists()


def test_a_process_of_the_class_outside_of_its_group_stands_still_and_is_said(course, ada, student, freezer):
    with in_class(course, ada, WRITER):
        assert is_moving(ada)
        lost = writer(ada, student.server)
        (freezer.groups.root.parents[1] / "cgroup.procs").write_text(str(lost))
        with freezer.frozen([student]) as frozen:
            assert stands(ada)
            assert str(lost) in frozen.complaints[ada.username]
        assert is_moving(ada)


@pytest.mark.parametrize("kind", ["freezer", "without"])
def test_a_job_that_its_student_put_to_sleep_stays_asleep(course, ada, student, kind, request):
    with login(course, ada, WRITER) as process:
        assert is_moving(ada)
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        with request.getfixturevalue(kind).frozen([student]):
            pass
        assert stands(ada)
        process.send_signal(signal.SIGCONT)
        assert is_moving(ada)


@pytest.mark.parametrize("place", [in_class, login])
@pytest.mark.parametrize("kind", ["freezer", "without"])
def test_who_froze_them_is_killed_and_they_go_on(course, ada, student, place, kind, request):
    freezer = request.getfixturevalue(kind)
    with place(course, ada, WRITER):
        assert is_moving(ada)
        pid = frozen_for_long(freezer, student)
        eventually(lambda: stands(ada))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert is_moving(ada)


@pytest.mark.parametrize("place", [in_class, login])
@pytest.mark.parametrize("kind", ["freezer", "without"])
def test_who_froze_them_is_killed_with_its_watcher_and_what_it_left_is_found(
    course, ada, student, place, kind, request
):
    freezer = request.getfixturevalue(kind)
    with place(course, ada, WRITER):
        assert is_moving(ada)
        pid = frozen_for_long(freezer, student)
        eventually(lambda: stands(ada))
        (watcher,) = psutil.Process(pid).children()
        watcher.suspend()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        watcher.kill()
        assert stands(ada)
        assert freezer.left() == {ada.uid: ada.username}
        freezer.thaw(list(freezer.left()))
        assert is_moving(ada)
        assert not freezer.left() and not freezer.record.exists()


def test_groups_that_are_frozen_and_on_no_record_are_found(course, ada, student, freezer):
    with in_class(course, ada, WRITER):
        freezer.freeze([student])
        freezer.record.unlink()
        assert freezer.left() == {ada.uid: ""}
        freezer.thaw([ada.uid])
        assert is_moving(ada)


def test_who_froze_them_hangs_and_they_go_on(course, ada, student, freezer):
    with in_class(course, ada, WRITER):
        pid = frozen_for_long(freezer, student, 1.0)
        try:
            eventually(lambda: stands(ada))
            assert is_moving(ada)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_who_is_frozen_by_somebody_else_as_well_goes_on_with_the_last(course, ada, student, freezer):
    other = Freezer(freezer.groups, course.paths.run / freeze_record.BY_COMMAND)
    with in_class(course, ada, WRITER), login(course, ada, "import time; time.sleep(60)") as one:
        before = own_path(freezer.groups, one.pid)
        with freezer.frozen([student]):
            other.freeze([student])
        assert stands(ada)
        assert not freezer.left()
        other.thaw([ada.uid])
        assert is_moving(ada)
        assert own_path(freezer.groups, one.pid) == before


def test_who_cannot_be_frozen_is_named_and_everybody_goes_on(course, ada, student, without, monkeypatch):
    """Nothing of ours can hold back who is started faster than we look: here, because we look only once."""
    with login(course, ada, WRITER):
        assert is_moving(ada)
        monkeypatch.setattr("nblauncher.isolation.freezer._ROUNDS", 1)
        with pytest.raises(HostError, match=ada.username), without.frozen([student]):
            pass
        assert is_moving(ada)


def test_a_student_of_whom_nothing_runs_is_no_obstacle(course, freezer):
    with freezer.frozen([Student("nbtvnobody", 25099)]) as frozen:
        assert not frozen.expired


def test_nobody_else_is_touched(course, ada, student, freezer, tmp_path: Path):
    own = subprocess.Popen(["sh", "-c", f"while :; do date +%N > {tmp_path}/count; done"], start_new_session=True)
    try:
        while not (tmp_path / "count").exists():
            pass
        with freezer.frozen([student]):
            before = (tmp_path / "count").stat().st_mtime_ns
            eventually(lambda: (tmp_path / "count").stat().st_mtime_ns != before)
    finally:
        os.killpg(own.pid, signal.SIGKILL)
        own.wait()
