"""Steps, phases and what a report says of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from nblauncher.errors import HostError, RefusedError
from nblauncher.planning.plan import Phase, Plan, Report, SomeFailed, apply

HOST: Any = None
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="forked steps become root's")


@dataclass(frozen=True)
class Do:
    """A step that calls a function."""

    usernames: tuple[str, ...]
    act: Callable[[tuple[str, ...]], Any] = lambda _names: None

    def describe(self) -> str:
        return f"do {' '.join(self.usernames)}"

    def apply(self, _host: Any) -> Any:
        return self.act(self.usernames)


def refuse(error: Exception) -> Callable[[tuple[str, ...]], Any]:
    def act(_names: tuple[str, ...]) -> Any:
        raise error

    return act


def carry_out(*phases: Phase, names: str = "ada bob") -> Report:
    return apply(Plan(phases), HOST, Report.of(names.split()))


def statuses(report: Report) -> dict[str, str]:
    return {name: student.status for name, student in report.students.items()}


def test_a_student_without_a_step_is_unchanged():
    assert statuses(carry_out(Phase("p", (Do(("ada",)),)))) == {"ada": "done", "bob": "unchanged"}


def test_a_student_who_failed_is_skipped_in_later_phases_and_the_others_go_on():
    seen: list[str] = []
    report = carry_out(
        Phase("one", (Do(("ada",), refuse(HostError("disk full", "free some space"))), Do(("bob",)))),
        Phase("two", (Do(("ada",), seen.extend), Do(("bob",), seen.extend))),
    )
    assert seen == ["bob"]
    assert statuses(report) == {"ada": "failed", "bob": "done"}
    assert report["ada"].error == "disk full (free some space)"


def test_a_step_for_many_goes_on_without_those_who_failed():
    seen: list[str] = []
    carry_out(Phase("one", (Do(("ada",), refuse(HostError("no"))),)), Phase("two", (Do(("ada", "bob"), seen.extend),)))
    assert seen == ["bob"]


def test_some_of_many_may_fail():
    report = carry_out(Phase("one", (Do(("ada", "bob"), refuse(SomeFailed({"bob": "no"}))),)))
    assert statuses(report) == {"ada": "done", "bob": "failed"}


def test_a_failure_of_the_whole_course_ends_the_run():
    with pytest.raises(HostError, match="no disk"):
        carry_out(Phase("one", (Do((), refuse(HostError("no disk"))),)))


def test_an_unexpected_error_is_a_bug_and_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        carry_out(Phase("one", (Do(("ada",), lambda _names: 1 / 0),)))


def test_an_interruption_is_reported_with_what_was_done():
    report = carry_out(Phase("one", (Do(("ada",)), Do(("bob",), refuse(KeyboardInterrupt())))))
    assert report.was_interrupted
    assert statuses(report) == {"ada": "done", "bob": "skipped"}


def test_who_was_not_finished_when_it_was_interrupted_is_skipped_and_not_done():
    lock = Phase("lock", (Do(("ada",)), Do(("bob",))))
    delete = Phase("delete", (Do(("ada",)), Do(("bob",), refuse(KeyboardInterrupt()))))
    assert statuses(carry_out(lock, delete)) == {"ada": "done", "bob": "skipped"}


def test_a_step_may_find_that_nothing_was_to_do_for_somebody():
    found = Do((), lambda _names: {"ada": {"is_unchanged": True}})
    report = carry_out(Phase("look", (Do(("ada",)), Do(("bob",)))), Phase("publish", (found,)))
    assert statuses(report) == {"ada": "unchanged", "bob": "done"}
    assert report["ada"].details == {}


@needs_root
def test_parallel_steps_run_in_processes_of_their_own_and_answer():
    phase = Phase("p", tuple(Do((name,), lambda names: {names[0]: {"pid": os.getpid()}}) for name in "abc"), parallel=2)
    report = carry_out(phase, names="a b c")
    pids = {student.details["pid"] for student in report.students.values()}
    assert len(pids) == 3
    assert os.getpid() not in pids


@needs_root
def test_a_parallel_step_that_fails_or_dies_is_one_students_failure():
    report = carry_out(
        Phase(
            "p",
            (
                Do(("ada",), refuse(RefusedError("no"))),
                Do(("bob",), lambda _names: os.kill(os.getpid(), 9)),
                Do(("eve",)),
            ),
            parallel=2,
        ),
        names="ada bob eve",
    )
    assert statuses(report) == {"ada": "failed", "bob": "failed", "eve": "done"}
    assert "SIGKILL" in (report["bob"].error or "")


@needs_root
def test_a_process_that_applies_many_steps_loses_only_the_one_in_which_it_ends():
    def act(names: tuple[str, ...]) -> Any:
        if names == ("bob",):
            os.kill(os.getpid(), 9)
        if names == ("eve",):
            raise HostError("disk full")
        return {names[0]: {"pid": os.getpid()}}

    steps = tuple(Do((name,), act) for name in ("ada", "bob", "eve", "kim", "zoe"))
    report = carry_out(Phase("p", steps, parallel=2, reuses_processes=True), names="ada bob eve kim zoe")
    failed = {"bob": "failed", "eve": "failed"}
    assert statuses(report) == {"ada": "done", **failed, "kim": "done", "zoe": "done"}
    assert "ended without an answer" in (report["bob"].error or "") and report["eve"].error == "disk full"
    assert len({report[name].details["pid"] for name in ("ada", "kim", "zoe")}) <= 2


@needs_root
def test_a_parallel_step_for_many_may_fail_for_some():
    steps = (Do(("ada", "bob"), refuse(SomeFailed({"bob": "no"}))), Do(("eve",)))
    report = carry_out(Phase("p", steps, parallel=2), names="ada bob eve")
    assert statuses(report) == {"ada": "done", "bob": "failed", "eve": "done"}


def test_a_report_with_something_incomplete_is_partial():
    report = Report.of(["ada"])
    report.add("ada", {"exceptions": [{"path": "x", "reason": "too large", "incomplete": True}]})
    assert report.is_partial
    report = Report.of(["ada"])
    report.add("ada", {"exceptions": [{"path": "x", "reason": "a link", "incomplete": False}]})
    assert not report.is_partial
