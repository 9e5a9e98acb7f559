"""Which pages of feedback go to whom."""

from __future__ import annotations

import pytest

from nblauncher.commands.grading import feedback
from nblauncher.commands.grading.feedback import Run
from nblauncher.errors import HostError
from nblauncher.grading.feedback import from_answer
from nblauncher.model import HandedOut
from nblauncher.planning.plan import Report

SHA = "a" * 64
GIVEN = {"ps1/lab.html": HandedOut(SHA, 7, 1, 1, 1)}


def answered(*students: str, sha256: str = SHA, error: str = "", waiting: bool = False) -> Run:
    rows = [
        {"student": name, "files": [] if error else [["lab.html", 7, sha256]], "error": error, "waiting": waiting}
        for name in students
    ]
    return Run("ps1", from_answer({"students": rows}, "ps1"))


def planned(run: Run, given: feedback.AllGiven, told: feedback.AllGiven) -> list[str]:
    return [step.username for step in feedback.plan(["ada", "bob"], run, given, told)]


def test_only_a_page_that_differs_from_the_one_given_goes_out():
    assert planned(answered("ada"), {}, {}) == ["ada"]
    assert planned(answered("ada"), {"ada": GIVEN}, {"ada": GIVEN}) == []
    assert planned(answered("ada", sha256="b" * 64), {"ada": GIVEN}, {"ada": GIVEN}) == ["ada"]


def test_news_that_a_killed_run_has_not_told_are_told_by_the_next():
    assert planned(answered("ada"), {"ada": GIVEN}, {}) == ["ada"]


def test_a_student_whose_pages_cannot_be_rendered_fails_in_every_run():
    assert planned(answered("ada", error="not JSON"), {"ada": GIVEN}, {"ada": GIVEN}) == ["ada"]


def test_the_summary_names_who_is_not_graded_yet():
    report = Report.of(["ada", "bob"])
    assert feedback.summary(answered("ada"), report) == "Not graded yet: bob.\nfeedback: nothing to do."
    report.add("ada", {"files": 1})
    assert feedback.summary(answered("ada", waiting=True), report).splitlines() == [
        "Put the feedback on ps1 into 1 home.",
        "Not graded yet: bob.",
        "Not graded by hand yet, and given as it is: ada.",
    ]


@pytest.mark.parametrize(
    "files",
    [
        None,
        [["lab.html", 7]],
        [["../lab.html", 7, SHA]],
        [["a/b.html", 7, SHA]],
        [["lab.html", -1, SHA]],
        [[1, 7, SHA]],
    ],
)
def test_an_answer_that_leads_elsewhere_is_refused(files):
    with pytest.raises(HostError, match="malformed"):
        from_answer({"students": [{"student": "ada", "files": files, "error": "", "waiting": False}]}, "ps1")
