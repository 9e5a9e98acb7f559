"""What a grading program says: its result file, or its exit code. Pure.

Three forms of a file: `{"score": 3, "max_score": 4, "feedback": "..."}`, the results.json of Gradescope, which
otter-grader writes too (`{"tests": [{"score": ..., "max_score": ..., "name": ..., "output": ...}]}`), and JUnit XML, of
which each test is worth one point. Without a file the exit code decides: 0 is one point of one.
Sources: https://gradescope-autograders.readthedocs.io/en/latest/specs/, https://github.com/testmoapp/junitxml.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 4_000_000
_MOST_TESTS = 5000
_MOST_WORDS = 2000


class NoResult(Exception):
    """The file cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """Points, and what the student is told."""

    score: float
    max_score: float
    feedback: str = ""


def parsed(data: bytes | None, exit_code: int, output: str) -> Result:
    """`data` is the result file, None when there is none. NoResult."""
    if data is None:
        return Result(1.0 if exit_code == 0 else 0.0, 1.0, output)
    if len(data) > MOST_BYTES:
        raise NoResult(f"the result has more than {MOST_BYTES / 1e6:.0f} MB")
    text = data.strip()
    found = _from_xml(text) if text.startswith(b"<") else _from_json(text)
    for number in (found.score, found.max_score):
        if not math.isfinite(number) or abs(number) > 1e9:
            raise NoResult("the result has a score that is not a number of points")
    if not 0 <= found.score <= found.max_score:
        raise NoResult(f"the result has {found.score:g} of {found.max_score:g} points")
    return found


def _from_json(text: bytes) -> Result:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoResult("the result is neither JSON nor XML") from error
    if not isinstance(found, dict):
        raise NoResult("the result is not an object")
    tests = found.get("tests")
    if isinstance(tests, list):
        return _from_tests([test for test in tests[:_MOST_TESTS] if isinstance(test, dict)], found)
    feedback = found.get("feedback", "")
    return Result(_number(found, "score"), _number(found, "max_score"), feedback if isinstance(feedback, str) else "")


def _from_tests(tests: list[dict[str, Any]], about: Mapping[str, Any]) -> Result:
    lines = []
    for test in tests:
        score, most = _number(test, "score", 0.0), _number(test, "max_score", 0.0)
        words = str(test.get("output") or "")[:_MOST_WORDS]
        lines.append(f"{test.get('name', 'test')}: {score:g} of {most:g}\n{words}".strip())
    score = _number(about, "score", sum(_number(test, "score", 0.0) for test in tests))
    most = _number(about, "max_score", sum(_number(test, "max_score", 0.0) for test in tests))
    head = about.get("output")
    return Result(score, most, "\n\n".join([*([head] if isinstance(head, str) and head else []), *lines]))


def _number(found: Mapping[str, Any], key: str, otherwise: float | None = None) -> float:
    value = found.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NoResult(f"the result has no number {key}")
    return float(value)


def _from_xml(text: bytes) -> Result:
    from xml.etree.ElementTree import Element, ParseError

    import defusedxml.ElementTree
    from defusedxml import DefusedXmlException

    try:
        root: Element = defusedxml.ElementTree.fromstring(text)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise NoResult(f"the result is not XML that can be used: {type(error).__name__}") from error
    cases = list(root.iter("testcase"))[:_MOST_TESTS]
    counted = [case for case in cases if case.find("skipped") is None]
    if not counted:
        raise NoResult("the result has no test")
    lines, passed = [], 0
    for case in counted:
        trouble = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        name = f"{case.get('classname', '')}.{case.get('name', '')}".strip(".")
        passed += trouble is None
        words = (
            "passed" if trouble is None else f"failed\n{(trouble.get('message') or trouble.text or '')[:_MOST_WORDS]}"
        )
        lines.append(f"{name}: {words}")
    return Result(float(passed), float(len(counted)), "\n\n".join(lines))
