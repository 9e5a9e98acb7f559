"""What a server reports while it runs, and how it ends its kernels."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import datetime, timedelta, timezone

import pytest

from nblauncher.server import activity
from nblauncher.server.activity import Activity
from nblauncher.server.reporting import Reporting

NOON = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)


class Kernel:
    def __init__(self, state: str) -> None:
        self.execution_state, self.last_activity, self.ended_by_teacher = state, NOON, False
        self.signals: list[int] = []

    async def signal_kernel(self, signum: int) -> None:
        self.signals.append(signum)


class Gone(Kernel):
    async def signal_kernel(self, signum: int) -> None:
        raise RuntimeError("Cannot signal kernel. No kernel is running!")


class Server:
    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.activity = Activity(writing, "/user/ada/")
        self.kernels: list[Kernel] = []
        self.now = 0.0
        self.reporting = Reporting(self.activity, lambda: self.kernels, lambda: self.now)

    def said(self) -> list[str]:
        self.reporting.look()
        try:
            return os.read(self.reading, 4096).decode().split()
        except BlockingIOError:
            return []


@pytest.fixture
def server():
    made = Server()
    yield made
    os.close(made.reading)
    os.close(made.activity._news)


def test_the_time_for_which_a_server_was_frozen_does_not_count_as_idle():
    times = [0.0]
    one = Activity(None, "/user/ada/", lambda: times[-1])
    for now, idle in ((60.0, 60.0), (120.5, 120.5), (4000.0, 180.5), (4060.0, 240.5)):
        times.append(now)
        one.look(60.0)
        assert one.idle_seconds() == pytest.approx(idle)


def test_kernels_are_counted_and_told_when_they_change(server):
    assert server.said() == ["kernels=0/0"]
    assert server.said() == []
    server.kernels = [Kernel("busy"), Kernel("idle"), Kernel("starting")]
    assert server.said() == ["kernels=3/1"]
    server.kernels[1].execution_state = "busy"
    assert server.said() == ["kernels=3/2"]


def test_unchanged_counts_are_told_again_to_another_supervisor(server):
    server.said()
    server.now = 30.0
    assert server.said() == []
    server.now = 61.0
    assert server.said() == ["kernels=0/0"]


def test_a_save_a_click_and_a_kernel_that_speaks_are_told(server):
    server.kernels = [Kernel("busy")]
    server.said()
    server.kernels[0].last_activity = NOON + timedelta(seconds=1)
    assert server.said() == [activity.USED]
    server.activity.seen("POST", "/user/ada/api/contents")
    assert server.said() == [activity.SIGNED_IN, activity.USED]
    server.activity.seen("GET", "/user/ada/api/contents")
    assert server.said() == []
    server.reporting.saved(model={}, os_path="/home/ada/x.ipynb", contents_manager=None)
    assert server.said() == [activity.SAVED]
    assert server.said() == []


def test_every_kernel_is_killed_and_counted(server):
    server.kernels = [Kernel("busy"), Kernel("idle"), Gone("dead")]
    asyncio.run(server.reporting.end_kernels())
    assert [kernel.signals for kernel in server.kernels] == [[signal.SIGKILL], [signal.SIGKILL], []]
    assert all(kernel.ended_by_teacher for kernel in server.kernels)
    assert os.read(server.reading, 4096).decode().split() == ["ended=2"]


@pytest.mark.parametrize("word", [activity.kernels_word(3, 2), activity.ended_word(0), *sorted(activity.WORDS)])
def test_every_word_is_known_to_the_supervisor(word):
    assert activity.is_known(word)


def test_whether_a_process_handles_the_signal_is_seen():
    before = signal.signal(activity.END_KERNELS, signal.SIG_DFL)
    try:
        assert not activity.handles(os.getpid())
        signal.signal(activity.END_KERNELS, lambda _number, _frame: None)
        assert activity.handles(os.getpid())
    finally:
        signal.signal(activity.END_KERNELS, before)
    assert not activity.handles(2**22 + 1)
