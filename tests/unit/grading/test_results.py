"""What a grading program's result file says, and what is refused."""

from __future__ import annotations

import json

import pytest

from nblauncher.grading.by_command.results import MOST_BYTES, NoResult, Result, parsed

JUNIT = b"""<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="test_hw" name="test_add"/>
<testcase classname="test_hw" name="test_mul"><failure message="assert 5 == 6">long</failure></testcase>
<testcase classname="test_hw" name="test_div"><error>ZeroDivisionError</error></testcase>
<testcase classname="test_hw" name="test_old"><skipped/></testcase></testsuite></testsuites>"""


def test_a_result_of_three_numbers():
    given = json.dumps({"score": 3, "max_score": 4.5, "feedback": "nearly"}).encode()
    assert parsed(given, 0, "output") == Result(3.0, 4.5, "nearly")


@pytest.mark.parametrize("code, score", [(0, 1.0), (1, 0.0), (-9, 0.0)])
def test_without_a_file_the_exit_code_decides_and_the_output_is_the_feedback(code, score):
    assert parsed(None, code, "what it said") == Result(score, 1.0, "what it said")


def test_a_test_of_junit_is_a_point_and_a_skipped_one_is_none():
    found = parsed(JUNIT, 1, "")
    assert (found.score, found.max_score) == (1.0, 3.0)
    assert "test_hw.test_mul: failed\nassert 5 == 6" in found.feedback
    assert "test_hw.test_div: failed\nZeroDivisionError" in found.feedback


def test_gradescopes_results_are_summed():
    tests = [
        {"name": "q1", "score": 1, "max_score": 2, "output": "half"},
        {"name": "q2", "score": 3.0, "max_score": 3.0},
        {"name": "public tests"},
    ]
    found = parsed(json.dumps({"tests": tests, "output": "hello"}).encode(), 0, "")
    assert (found.score, found.max_score) == (4.0, 5.0)
    assert found.feedback.startswith("hello") and "q1: 1 of 2\nhalf" in found.feedback


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "neither JSON nor XML"),
        (b"[1]", "not an object"),
        (b"[" * 100_000, "neither JSON nor XML"),
        (b'{"score": 1}', "no number max_score"),
        (b'{"score": "1", "max_score": 1}', "no number score"),
        (b'{"score": true, "max_score": 1}', "no number score"),
        (b'{"score": NaN, "max_score": 1}', "not a number of points"),
        (b'{"score": 1e400, "max_score": 1e400}', "not a number of points"),
        (b'{"score": 5, "max_score": 4}', "5 of 4 points"),
        (b'{"score": -1, "max_score": 4}', "-1 of 4 points"),
        (b"<testsuite/>", "no test"),
        (b"<testsuite>", "not XML"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><testsuite><testcase name="&a;"/></testsuite>', "EntitiesForbidden"),
        (b" " * (MOST_BYTES + 1), "more than 4 MB"),
    ],
)
def test_what_is_no_result_is_refused_with_the_reason(data, words):
    with pytest.raises(NoResult, match=words):
        parsed(data, 0, "")
