"""Seats with a spawner, a loop and a clock that the test controls: what the table decides in a race."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Group, Kind
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account, Handle, ServerHandle, ServerState
from nblauncher.server import activity
from nblauncher.supervisor.doings import SIGN_INS, SignIns, load
from nblauncher.supervisor.kernel_ending import NO_WORD, NOT_RUNNING, TOO_OLD, end_kernels
from nblauncher.supervisor.loop import Timer
from nblauncher.supervisor.reports import server_report
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.seats import START_DEADLINE, Seats
from nblauncher.supervisor.spawners import Answer, Order, Started
from nblauncher.supervisor.states import Phase
from nblauncher.supervisor.stopping import Exit
from nblauncher.system import processes

UID = 3_999_999
GROUP = Group(Kind.NONE, Path("/"))
HANDLE = Handle(2**22 + 1, 1)
"""Of no process: Linux has no such pid."""


class Loop:
    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.watched: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        self.watched[descriptor] = call

    def forget(self, descriptor: int) -> None:
        self.watched.pop(descriptor, None)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, len(self.timers), call))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while due := sorted(timer for timer in self.timers if timer.due <= until):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].due)
            if not due[0].is_cancelled:
                due[0].call()
        self.now = until


class Spawner:
    """Keeps each server's end of the pipe for news, and answers when the test does."""

    is_remote = False

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.sign_ins: list[str] = []
        self.news = -1

    def start(self, order: Order, answer: Answer) -> None:
        self.answers.append(answer)
        self.sign_ins.append(order.sign_ins)
        self.hang_up()
        self.news = os.dup(order.news)

    def hang_up(self) -> None:
        if self.news >= 0:
            os.close(self.news)
            self.news = -1

    def poll(self, handle: ServerHandle) -> bool:
        return True

    def stop(self, handle: ServerHandle) -> None: ...

    def kill(self, handle: ServerHandle) -> None:
        assert isinstance(handle, Handle)
        processes.send_signal(handle, signal.SIGKILL)


class Class:
    """One student's seat."""

    def __init__(self, folder: Path) -> None:
        self.loop, self.spawner = Loop(), Spawner()
        self.kernels_are_gone = True
        kernels = SimpleNamespace(
            know=lambda place: None, forget=lambda uid: None, has_forgotten=lambda uid: self.kernels_are_gone
        )
        sandboxes = SimpleNamespace(
            group=lambda uid: GROUP,
            provide=lambda order: order.sandbox,
            of_running=lambda order, handle: None,
            take_away=lambda uid, keeps_runtime: None,
        )
        spawners = {"process": self.spawner}
        self.sign_ins = SignIns(self.loop, folder / SIGN_INS)  # type: ignore[arg-type]
        self.seats = Seats(self.loop, spawners, kernels, sandboxes, folder, self.sign_ins)  # type: ignore[arg-type]
        self.seat = self.seats._seats["ada"] = Seat("ada", UID, 0, GROUP)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        self.seat.sockets = [listening]
        self.config = os.memfd_create("config")
        self.done = 0

    @property
    def order(self) -> Order:
        account = Account("ada", UID, UID, Path("/"))
        return Order(account, (), self.config, None, None, {}, Sandbox(GROUP), is_isolated=False, news=-1)

    def start(self) -> None:
        def done() -> None:
            self.done += 1

        self.seats.start(self.seat, self.order, "process", done)

    def sleep(self) -> None:
        self.seats.start_on_demand(self.seat, self.order, "process")

    def spawned(self) -> None:
        output, theirs = os.pipe()
        os.close(theirs)
        self.spawner.answers[-1](Started(HANDLE, output))

    def says(self, *words: str) -> None:
        os.write(self.spawner.news, "".join(f"{word}\n" for word in words).encode())
        self.loop.watched[self.seat.news_pipe]()

    def close(self) -> None:
        self.seats.close()
        self.seat.end_output()
        self.spawner.hang_up()
        os.close(self.config)


@pytest.fixture
def course(tmp_path) -> Iterator[Class]:
    made = Class(tmp_path)
    yield made
    made.close()


def test_a_server_is_started_answers_and_is_stopped(course):
    course.start()
    assert course.seat.phase is Phase.STARTING
    course.spawned()
    assert course.done == 1
    course.says(activity.LISTENS)
    assert course.seat.phase is Phase.READY
    course.seats.stop(course.seat, 5.0)
    assert course.seat.phase is Phase.STOPPING
    assert course.seats.child_ended(HANDLE.pid, 0)
    course.loop.go_on(1)
    assert course.seat.state is ServerState.STOPPED


def test_a_server_that_answered_and_died_is_started_again(course):
    course.start()
    course.spawned()
    course.says(activity.LISTENS)
    course.kernels_are_gone = False
    course.seats.child_ended(HANDLE.pid, 9)
    assert course.seat.phase is Phase.RESTARTING
    course.kernels_are_gone = True
    course.loop.go_on(1)
    assert course.seat.phase is Phase.STARTING and len(course.spawner.answers) == 2


def test_sign_ins_go_on_with_a_server_that_is_restarted_or_died_and_end_with_a_shutdown(course):
    def again(**how: bool) -> None:
        course.seats.stop(course.seat, 0.0, **how)
        course.seats.ended(course.seat, Exit("it ended by itself", is_clean=True))
        course.loop.go_on(60)
        course.start()
        course.spawned()

    course.start()
    course.spawned()
    course.says("listens")
    course.seats.ended(course.seat, Exit("exit status 1"))
    course.loop.go_on(1)
    course.spawned()
    again(keeps_runtime=True)
    again()
    first, died, restarted, new = course.spawner.sign_ins
    assert first and first == died == restarted != new


def test_a_server_that_is_stopped_before_it_is_spawned_is_killed_and_a_start_meanwhile_is_refused(course):
    course.start()
    course.kernels_are_gone = False
    course.seats.stop(course.seat, 5.0)
    with pytest.raises(HostError, match="still being stopped"):
        course.start()
    course.spawned()
    assert course.seat.handle is None
    course.kernels_are_gone = True
    course.loop.go_on(1)
    assert course.seat.state is ServerState.STOPPED and len(course.spawner.answers) == 1


def test_a_server_that_answers_before_the_spawner_does_is_kept(course):
    course.start()
    course.says(activity.LISTENS)
    course.spawned()
    assert course.seat.phase is Phase.READY and course.seat.handle == HANDLE


def test_a_start_while_an_idle_server_goes_to_sleep_is_the_only_one(course):
    course.start()
    course.spawned()
    course.says(activity.LISTENS, activity.IDLE)
    course.kernels_are_gone = False
    course.seats.child_ended(HANDLE.pid, 0)
    assert course.seat.phase is Phase.CLEARING
    course.start()
    course.kernels_are_gone = True
    course.loop.go_on(1)
    assert course.seat.phase is Phase.STARTING and len(course.spawner.answers) == 2
    assert course.seat.sockets[0].fileno() not in course.loop.watched


def test_the_deadline_of_a_failed_start_does_not_end_a_later_one(course):
    course.sleep()
    course.seats.waking.wake(course.seat)
    course.spawner.answers[-1](HostError("no"))
    assert course.seat.phase is Phase.DOWN
    course.loop.go_on(START_DEADLINE / 2)
    course.sleep()
    course.seats.waking.wake(course.seat)
    course.spawned()
    course.loop.go_on(START_DEADLINE * 0.75)
    assert course.seat.phase is Phase.STARTING
    course.loop.go_on(START_DEADLINE / 4 + 1)
    assert course.seat.phase is Phase.STOPPING


def test_what_a_server_reports_is_in_the_report_on_it(course):
    course.start()
    course.spawned()
    course.says(activity.LISTENS, activity.kernels_word(3, 1))
    report = server_report(course.seat, course.sign_ins)
    assert (report.kernels, report.busy_kernels, report.saved_at, report.used_at, report.signed_in_at) == (
        3,
        1,
        0,
        0,
        0,
    )
    course.says(activity.SESSION, activity.SAVED, activity.kernels_word(2, 9))
    report = server_report(course.seat, course.sign_ins)
    assert (report.kernels, report.busy_kernels) == (2, 2)
    assert min(report.saved_at, report.used_at, report.signed_in_at) > 1.7e9


def test_a_server_that_ended_has_no_kernels_and_its_last_save_stays(course):
    course.start()
    course.spawned()
    course.says(activity.LISTENS, activity.kernels_word(3, 1), activity.SAVED)
    course.seats.child_ended(HANDLE.pid, 0)
    report = server_report(course.seat, course.sign_ins)
    assert report.kernels is None and report.busy_kernels is None and report.saved_at > 0


@pytest.mark.parametrize(
    "words",
    [
        ["hello"],
        ["kernels=1"] * 65,
        ["saved"] * 5000,
        ["kernels=99999/1"],
        ["kernels=-1/0"],
        ["\x1b[2J"],
        ["saved", "SAVED"],
        ["kernels=١/٢"],
        ["saved saved"],
    ],
)
def test_a_server_that_sends_anything_else_or_too_much_is_no_longer_read(course, words):
    course.start()
    course.spawned()
    os.set_blocking(course.spawner.news, False)
    course.says(*words)
    assert course.seat.news_pipe == -1 and course.seat.phase is Phase.STARTING


def test_a_server_may_send_a_word_now_and_then_for_ever(course):
    now = 0.0
    course.seats._news._clock = lambda: now
    course.start()
    course.spawned()
    for _ in range(500):
        now += 2.0
        course.says(activity.SESSION, activity.SAVED, activity.kernels_word(1, 1))
    assert course.seat.news_pipe >= 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the file must be root's")
def test_sign_ins_outlive_the_supervisor_and_belong_to_the_uid(course, tmp_path):
    file = tmp_path / SIGN_INS
    course.start()
    course.spawned()
    course.says(activity.SESSION)
    assert not file.exists()
    course.loop.go_on(3)
    assert file.stat().st_mode & 0o777 == 0o600
    again = SignIns(course.loop, file)
    assert again.at("ada", UID) > 1.7e9
    assert again.at("ada", UID + 1) == again.at("bob", UID) == 0
    again.forget("ada")
    again.close()
    assert load(file) == {}


@pytest.mark.parametrize("content", ["", "[]", "7", "{", '{"ada": 1}', '{"ada": ["x", 1]}'])
def test_damaged_sign_ins_are_none(tmp_path, content):
    file = tmp_path / SIGN_INS
    file.write_text(content)
    file.chmod(0o600)
    assert load(file) == {}


def test_kernels_are_ended_only_where_the_server_handles_the_signal(course):
    said = []
    end_kernels(course.loop, [course.seat], said.append)
    course.start()
    course.spawned()
    course.says(activity.LISTENS)
    end_kernels(course.loop, [course.seat], said.append)
    assert said == [{"ada": NOT_RUNNING}, {"ada": TOO_OLD}]


def test_a_server_reports_how_many_kernels_it_ended_or_is_given_up(course):
    course.start()
    course.spawned()
    course.says(activity.LISTENS)
    course.seat.handle = processes.identify(os.getpid())
    came = []
    before = signal.signal(activity.END_KERNELS, lambda number, _frame: came.append(number))
    try:
        said = []
        end_kernels(course.loop, [course.seat], said.append)
        assert came == [activity.END_KERNELS] and said == []
        course.says(activity.ended_word(4))
        course.loop.go_on(60)
        assert said == [{"ada": 4}]
        end_kernels(course.loop, [course.seat], said.append)
        course.loop.go_on(60)
        assert said[1:] == [{"ada": NO_WORD}]
    finally:
        signal.signal(activity.END_KERNELS, before)
        course.seat.handle = HANDLE
