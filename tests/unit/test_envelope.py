"""The checker of `--json` finds what it is there for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nblauncher.cli import render
from tests import envelope

STUDENT = {"username": "ada", "status": "done", "error": None}
CAPTURE = {"deadline": "ps1", "at": "2026-11-27T17:00:00+01:00", "state": "late", "captured": None}
STATUS = {
    **STUDENT,
    "server": "ready",
    "port": 8001,
    "url": "https://localhost:8001/user/ada/",
    "pid": 4711,
    "job": None,
    "node": None,
    "memory_bytes": 1,
    "cpu_seconds": 0.1,
    "kernels": 2,
    "busy_kernels": 1,
    "last_activity": "2026-11-27T17:00:00+01:00",
    "last_save": "2026-11-27T16:59:00+01:00",
    "last_sign_in": None,
    "never_signed_in": True,
    "disk_bytes": None,
    "disk_limit": 1_000_000,
    "frozen": False,
    "reason": "",
    "deadlines": [{**CAPTURE, "folder": None, "reason": None}],
    "history_bytes": 0,
    "history_share": 0,
    "history_above_share": False,
}


def answer(student: dict[str, Any], **more: Any) -> str:
    roster = {"not_set_up": [], "not_in_roster": [], "changed": {}, "problem": ""}
    about: dict[str, Any] = {"front_page": "https://localhost:8000/", "front_page_state": "ready", "kernels": ""}
    about |= {"next_deadline": None, "roster": roster, **more}
    return render.envelope("status", "ok", 0, [student], **about)


def test_what_is_documented_passes():
    assert envelope.checked(answer(STATUS), 0, "status")["students"] == [STATUS]


@pytest.mark.parametrize(
    "changed, found",
    [
        ({"surprise": 1}, "ada: surprise is unknown"),
        ({"port": "8001"}, "ada: port is '8001'"),
        ({"port": True}, "ada: port is True"),
        ({"server": "melted"}, "ada: server is 'melted'"),
        ({"last_activity": "2026-11-27T17:00:00"}, "ada: last_activity is"),
        ({"last_activity": "yesterday"}, "ada: last_activity is"),
        ({"deadlines": [CAPTURE]}, "ada: deadlines is"),
        ({"status": "failed"}, "failed with error None"),
    ],
)
def test_a_student_with_another_key_or_kind_does_not(changed, found):
    with pytest.raises(AssertionError, match=found):
        envelope.checked(answer({**STATUS, **changed}), 0, "status")


@pytest.mark.parametrize("key", ["server", "history_bytes", "error"])
def test_a_student_without_a_key_does_not(key):
    student = {name: value for name, value in STATUS.items() if name != key}
    with pytest.raises(AssertionError, match=f"ada: {key} is missing"):
        envelope.checked(answer(student), 0, "status")


def test_another_exit_code_than_the_commands_does_not():
    with pytest.raises(AssertionError, match="exit_code is 0"):
        envelope.checked(answer(STATUS), 5, "status")


def test_a_second_object_or_key_of_the_object_does_not():
    with pytest.raises(AssertionError, match="more is unknown"):
        envelope.checked(answer(STATUS, more=1), 0, "status")
    with pytest.raises(json.JSONDecodeError):
        envelope.checked(answer(STATUS) * 2, 0, "status")


def test_a_refusal_without_a_reason_does_not():
    with pytest.raises(AssertionError, match="does not say why"):
        envelope.checked(render.envelope("status", "refused", 4), 4, "status")
