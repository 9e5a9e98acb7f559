"""After `retrieve --assignment`: what was in time goes into `submitted` of the graded course, if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nblauncher.commands.deadlines import pending
from nblauncher.commands.retrieve import Run
from nblauncher.errors import HostError
from nblauncher.exchange.rows import exclusion_row
from nblauncher.grading import filling, submissions
from nblauncher.grading.filling import Order, Student
from nblauncher.grading.submissions import Course
from nblauncher.model import Exclusion
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, Phase, Report
from nblauncher.printable import printable

SUBMITTED = "submitted"


def phases(host: Host, folder: str, run: Run, usernames: tuple[str, ...]) -> tuple[tuple[Phase, ...], tuple[str, ...]]:
    """The phase that fills `submitted`, none where there is no course; and notes."""
    course = host.settings.grading.course
    try:
        found = submissions.look(host.owner, course)
    except HostError as error:
        return (), (f"{course}: {error.problem}; nothing is put into {SUBMITTED} there",)
    if found is Course.LINKED:
        return (), (f"{course / SUBMITTED} is a link and stays as it is: submissions are in the retrieval only",)
    if found is Course.NONE:
        return (), ()
    return (Phase("submissions", (FillSubmitted(folder, run, usernames),)),), ()


@dataclass(frozen=True)
class FillSubmitted:
    """Work that is not put there is still in the retrieval: the student is incomplete, not failed."""

    folder: str
    run: Run
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"put {self.folder} of {len(self.usernames)} students into {SUBMITTED} of the graded course"

    def apply(self, host: Host) -> Mapping[str, Details]:
        target = host.settings.retrieve.target
        students = _students(host, self.folder, self.usernames)
        order = Order(host.settings.grading.course, self.folder, target / self.run.folder, students)
        try:
            answers = submissions.fill(host.owner, order)
        except HostError as error:
            answers = {name: {"state": filling.FAILED, "problem": error.problem} for name in self.usernames}
        return {name: _details(self.folder, answer) for name, answer in answers.items()}


def words(details: Mapping[str, Any]) -> list[str]:
    """For the student's row: what the teacher must know about the submission."""
    submission = details.get("submission") or {}
    found = []
    if submission.get("state") == filling.FAILED:
        found.append(f"NOT PUT into {SUBMITTED}")
    if submission.get("state") == filling.KEPT:
        found.append("an earlier submission is kept")
    found += [f"{printable(name)} was {printable(path)}" for name, path in submission.get("renamed", {}).items()]
    if others := submission.get("others"):
        found.append(f"also has {', '.join(map(printable, others))}")
    if missing := submission.get("missing"):
        found.append(f"without {', '.join(map(printable, missing))}")
    if submission.get("kept"):
        found.append(f"the edited submission is now {submission['kept']}")
    return found


def summary(host: Host, report: Report) -> str:
    """A line about `submitted`; empty where there is no course."""
    states = [(student.details.get("submission") or {}).get("state") for student in report.students.values()]
    if not any(states):
        return ""
    shown = (filling.NEW, filling.REPLACED, filling.UNCHANGED)
    counts = [f"{states.count(state)} {state}" for state in shown if state in states]
    return f"Submissions in {host.settings.grading.course / SUBMITTED}: {', '.join(counts) or 'none'}"


def _students(host: Host, folder: str, usernames: tuple[str, ...]) -> tuple[Student, ...]:
    due: dict[str, tuple[datetime, datetime]] = {}
    for moment in pending.all_moments(host)[0]:
        if moment.deadline.folder == folder:
            due[moment.username] = (moment.at.astimezone(), moment.deadline.at.astimezone())
    given = host.course_ledger.all_handed_out("material", usernames)
    return tuple(
        Student(
            name,
            {
                path.removeprefix(f"{folder}/"): (one.sha256, one.inode)
                for path, one in given.get(name, {}).items()
                if path.startswith(f"{folder}/")
            },
            *due.get(name, (None, None)),
        )
        for name in usernames
    )


def _details(folder: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A student's part of the report (docs/reference.md, JSON)."""
    submission = {
        "state": answer["state"],
        "time": answer.get("time"),
        "renamed": answer.get("renamed", {}),
        "others": answer.get("others", []),
        "missing": answer.get("missing", []),
        "kept": answer.get("kept"),
    }
    if answer["state"] != filling.FAILED:
        return {"submission": submission}
    why = Exclusion(folder, f"not put into {SUBMITTED} of the graded course: {answer['problem']}", incomplete=True)
    return {"submission": submission, "exceptions": [exclusion_row(why)]}
