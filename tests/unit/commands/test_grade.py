"""What `grade ASSIGNMENT` says of its submissions."""

from __future__ import annotations

from nblauncher.commands.grading import grade
from nblauncher.planning.plan import Report


def test_a_submission_that_could_not_be_used_is_not_counted_as_graded():
    report = Report.of(["ada", "bob", "eve", "kim"])
    report.add("ada", {"score": 3.0, "failure": None})
    report.add("bob", {"score": None, "failure": "it was not done after 10 s and was ended"})
    report.fail("eve", "the disk is full")
    assert grade.without_score(report) == ("bob",)
    run = grade.Run("ps1", absent=("kim",))
    remarks = {name: words for name, _score, _of, _late, words in grade.rows(report, run)}
    assert remarks == {
        "ada": "",
        "bob": "NOT GRADED: it was not done after 10 s and was ended",
        "eve": "NOT GRADED: the disk is full",
        "kim": "nothing handed in",
    }
