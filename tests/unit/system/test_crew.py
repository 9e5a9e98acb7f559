"""A crew: few processes answer many calls, and one that ends takes its own call with it only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.model import Account
from nblauncher.system.crew import Crew
from nblauncher.system.processes import identify

ME = Account("me", os.geteuid(), os.getegid(), Path("/"))
TIMEOUT = 20.0


@contextlib.contextmanager
def crew(function: Callable[[Any], Any]) -> Iterator[Crew]:
    made = Crew(ME, function)
    try:
        yield made
    finally:
        made.dismiss()


def pid_and(call: Any) -> list[Any]:
    return [os.getpid(), call]


def test_a_process_answers_one_call_after_the_other():
    with crew(pid_and) as made:
        answers = [made.call(number).result(TIMEOUT) for number in range(5)]
    assert [number for _pid, number in answers] == list(range(5))
    assert len({pid for pid, _number in answers}) == 1 and answers[0][0] != os.getpid()


def test_calls_that_run_at_the_same_time_have_processes_of_their_own():
    with crew(pid_and) as made:
        running = [made.call(number) for number in range(3)]
        assert len({call.result(TIMEOUT)[0] for call in running}) == 3


@pytest.mark.parametrize("error", [HostError("no", "why"), RefusedError("no", "why"), InputError("no", "why")])
def test_what_a_call_raises_is_raised_and_its_process_goes_on(error):
    def act(call: int) -> int:
        if call:
            raise error
        return os.getpid()

    with crew(act) as made:
        before = made.call(0).result(TIMEOUT)
        with pytest.raises(type(error), match="no"):
            made.call(1).result(TIMEOUT)
        assert made.call(0).result(TIMEOUT) == before


def test_a_process_that_ends_takes_its_own_call_with_it_only():
    def act(call: str) -> int:
        if call == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    with crew(act) as made:
        first = made.call("live").result(TIMEOUT)
        with pytest.raises(HostError, match="ended without an answer"):
            made.call("die").result(TIMEOUT)
        assert made.call("live").result(TIMEOUT) != first


def test_one_that_was_killed_between_two_calls_is_replaced():
    with crew(pid_and) as made:
        first, _ = made.call(1).result(TIMEOUT)
        os.kill(first, signal.SIGKILL)
        while (handle := identify(first)) and Path(f"/proc/{handle.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        assert made.call(2).result(TIMEOUT)[1] == 2


def test_a_call_that_takes_too_long_is_ended():
    def act(call: float) -> float:
        time.sleep(call)
        return call

    with crew(act) as made:
        with pytest.raises(HostError, match="not done after"):
            made.call(60).result(0.2)
        assert made.call(0).result(TIMEOUT) == 0


def test_a_stopped_call_and_a_dismissed_crew_leave_no_process():
    with crew(pid_and) as made:
        pids = [made.call(0).result(TIMEOUT)[0]]
        running = [made.call(number) for number in range(2)]
        pids += [running[0].result(TIMEOUT)[0]]
        running[1].stop()
    assert not [pid for pid in pids if identify(pid)]
