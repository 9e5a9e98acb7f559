"""Records of gradings are data: what is not one is none, and what is too long is cut."""

from __future__ import annotations

from typing import Any

import pytest

from nblauncher.grading import records

RECORD: dict[str, Any] = {
    "version": 1,
    "digest": "d",
    "graded_at": "2026-01-02T10:00:00+00:00",
    "score": 1.5,
    "max_score": 3,
    "late_seconds": 0.0,
    "needs_manual_grade": False,
    "warnings": ["w"],
    "flags": [],
    "error": None,
    "notebooks": {"problem1": {"score": 1.5}},
}


def test_a_record_is_taken_as_it_is():
    assert records.checked(RECORD) == RECORD
    assert records.checked({**RECORD, "score": None, "late_seconds": None, "error": "why"}) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"digest": None},
        {"graded_at": "yesterday"},
        {"graded_at": "2026-01-02T10:00:00"},
        *({"score": value} for value in ("1", True, [], float("nan"), float("inf"), 10**400)),
        {"error": {"x": 1}},
        {"notebooks": []},
    ],
    ids=repr,
)
def test_what_is_not_a_record_is_none(change):
    assert records.checked({**RECORD, **change}) is None


@pytest.mark.parametrize("given", [None, [], "x", 5, {}])
def test_other_values_are_no_records(given):
    assert records.checked(given) is None


def test_remarks_are_bounded_and_texts():
    found = records.checked(
        {**RECORD, "warnings": ["x" * 1000, 5, {}] * 100, "flags": "x", "error": "x" * 5000, "more": 1}
    )
    assert found is not None and "more" not in found
    assert len(found["warnings"]) <= 40 and {len(words) for words in found["warnings"]} == {300}
    assert found["flags"] == [] and len(found["error"]) == 1000
