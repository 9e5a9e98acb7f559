"""Where things are in the teacher's folder of a graded course: nbgrader's layout. Pure.

Source: https://nbgrader.readthedocs.io/en/stable/user_guide/philosophy.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GRADEBOOK = "gradebook.db"
CONFIG = "nbgrader_config.py"
TIMESTAMP = "timestamp.txt"
RECORDS = ".nblauncher"


@dataclass(frozen=True, slots=True)
class CourseFolder:
    """`root` is the teacher's; an assignment has the same name in all folders."""

    root: Path

    def source(self, assignment: str) -> Path:
        return self.root / "source" / assignment

    def release(self, assignment: str) -> Path:
        """What students are handed."""
        return self.root / "release" / assignment

    def submitted(self, username: str, assignment: str) -> Path:
        return self.root / "submitted" / username / assignment

    def autograded(self, username: str, assignment: str) -> Path:
        return self.root / "autograded" / username / assignment

    def feedback(self, username: str, assignment: str) -> Path:
        return self.root / "feedback" / username / assignment

    def similar(self, assignment: str) -> Path:
        """The page that compares the submissions with each other."""
        return self.root / "similar" / f"{assignment}.html"

    def records(self, assignment: str) -> Path:
        """What nblauncher knows of each grading: STUDENT.json. nbgrader looks at no folder whose name begins so."""
        return self.root / RECORDS / assignment
