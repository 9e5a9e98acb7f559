"""Who is frozen with whom at a deadline. That work is captured: tests/system/test_deadlines.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from nblauncher.commands.deadlines import capture
from nblauncher.commands.deadlines.capture import CaptureAll
from nblauncher.commands.deadlines.copies import Round
from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Groups, Kind

NAMES = [f"s{number:02d}" for number in range(64)]


class Class:
    """Eve's processes cannot be frozen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts: list[list[str]] = []
        self.still: list[str] = []
        self.while_running: list[str] = []
        self.suspended: list[list[str]] = []
        self.is_on_a_cluster = False
        for name, function in {
            "on_a_cluster": lambda _host: self.is_on_a_cluster,
            "groups_of": lambda _host: Groups(Kind.NONE),
            "jobs_by_capture": lambda _host: SimpleNamespace(begin=self.suspended.append),
            "keep_watch": lambda _host: None,
            "remembered": lambda _host: {},
            "students": lambda _host, _groups, accounts: accounts,
            "by_capture": lambda _host: None,
        }.items():
            monkeypatch.setattr(capture.freeze, name, function)
        monkeypatch.setattr(capture.freezer, "Freezer", lambda *_: self)
        monkeypatch.setattr(capture.copies, "keep", self.keep)
        monkeypatch.setattr(capture, "_capture_in_parallel", self.capture)
        monkeypatch.setattr(capture.copies, "is_captured", lambda *_: False)
        monkeypatch.setattr(capture, "_accounts_of", lambda _host, there: ({one.username: one for one in there}, {}))
        monkeypatch.setattr(capture, "_tell_what_ran", lambda *_: None)
        monkeypatch.setattr(capture.copies, "objects", lambda _host: None)
        monkeypatch.setattr(capture, "ObjectStore", lambda _folder: SimpleNamespace(sync=lambda: None))
        monkeypatch.setattr(CaptureAll, "_still_wanted", lambda _self, _host, wanted: wanted)
        monkeypatch.setattr(CaptureAll, "_look_again", lambda *_: None)

    @contextlib.contextmanager
    def frozen(self, students: Sequence[Any], ready: Any) -> Iterator[None]:
        ready()
        self.attempts.append([student.username for student in students])
        if "eve" in self.attempts[-1]:
            raise HostError("processes of eve could not all be stopped")
        yield

    def capture(self, _host: object, wanted: Sequence[Any], *_: object) -> dict[str, str]:
        self.still += [moment.username for moment in wanted]
        return {}

    def keep(self, _host: object, moment: Any, *_: object, remark: str, is_still: bool) -> None:
        assert not is_still and "could not all be stopped" in remark
        self.while_running.append(moment.username)

    def take(self, names: Sequence[str]) -> None:
        moments: Any = tuple(SimpleNamespace(username=name) for name in names)
        at = datetime.now(timezone.utc)
        CaptureAll(Round(at, moments), tuple(names)).apply(None)  # type: ignore[arg-type]


def test_a_student_who_cannot_be_frozen_is_captured_running_and_costs_the_others_few_more_freezes(monkeypatch):
    one = Class(monkeypatch)
    one.is_on_a_cluster = True
    names = [*NAMES[:40], "eve", *NAMES[40:]]
    one.take(names)
    assert one.while_running == ["eve"] and sorted(one.still) == NAMES
    assert len(one.attempts) <= 2 * len(names).bit_length()


def test_without_a_freezer_on_this_host_all_jobs_are_suspended_at_once_all_the_same(monkeypatch):
    one = Class(monkeypatch)
    one.is_on_a_cluster = True
    one.take(NAMES)
    assert one.attempts == [NAMES] == one.suspended and one.still == NAMES


def test_without_a_freezer_students_on_this_host_are_stopped_in_turn(monkeypatch):
    one = Class(monkeypatch)
    one.take(NAMES)
    assert one.attempts == [[name] for name in NAMES] and one.still == NAMES and not one.while_running
