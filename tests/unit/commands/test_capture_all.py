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
from nblauncher.errors import HostError

NAMES = [f"s{number:02d}" for number in range(64)]


class Class:
    """Eve's processes cannot be frozen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts: list[list[str]] = []
        self.still: list[str] = []
        self.while_running: list[str] = []
        for name, function in {
            "on_a_cluster": lambda _host: False,
            "remembered": lambda _host: {},
            "students": lambda _host, _groups, accounts: accounts,
            "by_capture": lambda _host: None,
        }.items():
            monkeypatch.setattr(capture.freeze, name, function)
        monkeypatch.setattr(capture.freezer, "Freezer", lambda *_: self)
        monkeypatch.setattr(capture.copies, "keep", self.keep)
        monkeypatch.setattr(capture, "_capture_in_parallel", self.capture)
        monkeypatch.setattr(CaptureAll, "_still_wanted", lambda _self, _host, wanted: wanted)

    @contextlib.contextmanager
    def frozen(self, students: Sequence[str], ready: Any) -> Iterator[None]:
        ready()
        self.attempts.append(list(students))
        if "eve" in students:
            raise HostError("processes of eve could not all be stopped")
        yield

    def capture(self, _host: object, wanted: Sequence[Any], *_: object) -> dict[str, str]:
        self.still += [moment.username for moment in wanted]
        return {}

    def keep(self, _host: object, moment: Any, *_: object, remark: str, is_still: bool) -> None:
        assert not is_still and "could not all be stopped" in remark
        self.while_running.append(moment.username)

    def take(self, names: Sequence[str]) -> dict[str, str]:
        at = datetime.now(timezone.utc)
        step: Any = CaptureAll(SimpleNamespace(at=at, pause=0.0), tuple(names))  # type: ignore[arg-type]
        wanted = [SimpleNamespace(username=name) for name in names]
        return dict(step._frozen_copies(None, None, wanted, {name: name for name in names}))


def test_a_student_who_cannot_be_frozen_is_captured_running_and_costs_the_others_few_more_freezes(monkeypatch):
    one = Class(monkeypatch)
    names = [*NAMES[:40], "eve", *NAMES[40:]]
    assert one.take(names) == {}
    assert one.while_running == ["eve"] and sorted(one.still) == NAMES
    assert len(one.attempts) <= 2 * len(names).bit_length()


def test_a_class_that_can_be_frozen_is_frozen_once(monkeypatch):
    one = Class(monkeypatch)
    assert one.take(NAMES) == {} and one.attempts == [NAMES] and not one.while_running
