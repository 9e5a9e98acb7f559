"""grades: what the gradebook says, read as the teacher, and written into a file of the teacher's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nblauncher.config import assignments
from nblauncher.config.assignments import Known
from nblauncher.errors import HostError, InputError
from nblauncher.grading import exports, grades, teacher_tool
from nblauncher.grading.by_command import teacher_child
from nblauncher.grading.exports import number
from nblauncher.grading.grades import Grade, Grades
from nblauncher.model import Material, Roster
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.system import private_file, workers

PLAIN = "plain"
FORMS = (PLAIN, *exports.FORMS)
"""Of a file."""

_LONGEST = 300.0
_STRANGER = "(not on the roster)"


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the gradebook says of the students of a roster. `assignment` is '' for all of them."""

    found: Grades
    roster: Roster
    assignment: str = ""

    def only(self, usernames: Collection[str]) -> Sheet:
        """InputError when neither roster nor gradebook has one of them."""
        if unknown := sorted(set(usernames) - set(self.roster.usernames) - set(self.found.students)):
            raise InputError([f'--only: there is no student "{printable(name)}"' for name in unknown])
        students = {name: known for name, known in self.found.students.items() if name in usernames}
        chosen = {key: grade for key, grade in self.found.grades.items() if grade.student in usernames}
        found = Grades(self.found.assignments, students, chosen)
        return replace(self, found=found, roster=self.roster.only(usernames))

    @property
    def usernames(self) -> tuple[str, ...]:
        """The roster's, and whoever has a grade besides."""
        others = (name for name in self.found.students if name not in self.roster.usernames and self.found.of(name))
        return (*self.roster.usernames, *others)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Students of whom a person must still grade something."""
        return tuple(sorted({grade.student for grade in self.found.grades.values() if grade.needs_manual_grade}))

    @property
    def strangers(self) -> tuple[str, ...]:
        """Students with a grade who are no longer on the roster."""
        return tuple(sorted({grade.student for grade in self.found.grades.values()} - set(self.roster.usernames)))

    @property
    def unidentified(self) -> tuple[str, ...]:
        """Students whom Moodle could not find."""
        return exports.unidentified(self.roster, self.found, self.assignment)

    def exported(self, form: str, column: str | None) -> str:
        """The content of a file."""
        if form == PLAIN:
            return exports.csv_text(exports.plain(self.found, self.roster))
        make = exports.FORMS[form]
        return exports.csv_text(make(self.found, self.roster, self.assignment, column or self.assignment))

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Head and rows: of one assignment with its details, of several with the scores."""
        real = {student.username: student.name for student in self.roster}
        if self.assignment:
            head = ("student", "name", self.assignment, "of", "days late", "by hand", "")
            return head, [(name, real.get(name, _STRANGER), *self._details(name)) for name in self.usernames]
        heads = [f"{name} (of {number(most)})" for name, most in self.found.assignments.items()]
        rows = [(name, real.get(name, _STRANGER), *self._scores(name)) for name in self.usernames]
        return ("student", "name", *heads), rows

    def entries(self) -> list[dict[str, Any]]:
        """Each student's part of `--json`."""
        return [
            {"username": name, "status": "unchanged", "error": None, "grades": list(map(_entry, self.found.of(name)))}
            for name in self.usernames
        ]

    def _details(self, username: str) -> Sequence[str]:
        most = number(self.found.assignments[self.assignment])
        grade = self.found.grades.get((self.assignment, username))
        if grade is None:
            return ("-", most, "", "", "not graded")
        return (
            number(grade.score),
            most,
            number(grade.late_days) if grade.late_seconds else "",
            "" if grade.manual_score is None else number(grade.manual_score),
            "needs grading by hand" if grade.needs_manual_grade else "",
        )

    def _scores(self, username: str) -> list[str]:
        """`7.5`, `7.5*` where a person must grade too, `-` without a submission."""
        found = [self.found.grades.get((assignment, username)) for assignment in self.found.assignments]
        return [f"{number(one.score)}{'*' if one.needs_manual_grade else ''}" if one else "-" for one in found]


def assignment_name(text: str, material: Material) -> str:
    """nbgrader's name of the folder that `text` means. InputError when it cannot be one."""
    found = assignments.meaning(text, material, Known())
    if found.objection or not found.folder:
        why = found.objection or "an assignment is a folder"
        raise InputError(f"{printable(text[:60])}: {why}", "Nothing was changed.")
    return found.folder.replace("/", "-")


def read(host: Host, assignment: str = "") -> Grades:
    """Of this assignment, or of all. InputError when nothing was graded yet, HostError when it cannot be read."""
    teacher_tool.refuse_root(host.owner)
    course = host.settings.grading.course
    if host.settings.grading.command:
        return grades.from_answer(workers.run_as(host.owner, teacher_child.grades, course, assignment))
    python = teacher_tool.python_of(host.paths.grading_environments)
    answer = teacher_tool.ask(host.owner, python, "grades", {"assignment": assignment}, folder=course, timeout=_LONGEST)
    return grades.from_answer(answer)


def refuse_inputs(host: Host, file: Path) -> None:
    """The file that is written must not be one of the course's own."""
    settings = host.settings
    known = {
        settings.file: "the config",
        settings.students: "the roster",
        settings.credentials: "the credentials file",
        settings.grading.course / "gradebook.db": "the gradebook",
    }
    if words := known.get(file):
        raise InputError(f"--csv: {file} is {words}; nothing was written", "Name another file.")


def write(host: Host, file: Path, text: str) -> None:
    """As the teacher: 0600, replaced atomically."""
    try:
        workers.run_as(host.owner, private_file.replace, file, text.encode("utf-8", "surrogateescape"))
    except HostError as error:
        raise HostError(
            f"{file} could not be written as {host.owner.username}: {error.problem}",
            "An earlier file of that name was left as it is. Name a folder that the teacher can write to.",
        ) from error


def _entry(grade: Grade) -> dict[str, Any]:
    return {
        "assignment": grade.assignment,
        "score": grade.score,
        "max_score": grade.max_score,
        "late_seconds": grade.late_seconds,
        "late_penalty": grade.late_penalty,
        "manual_score": grade.manual_score,
        "extra_credit": grade.extra_credit,
        "needs_manual_grade": grade.needs_manual_grade,
    }
