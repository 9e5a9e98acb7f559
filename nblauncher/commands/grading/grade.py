"""grade ASSIGNMENT: grade every submission that is new or changed, several at a time, each confined."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.environments import course_packages
from nblauncher.errors import HostError, InputError
from nblauncher.grading import graders, records, submission, teacher_tool, workshop
from nblauncher.grading.by_command import run as by_command
from nblauncher.grading.by_command import teacher_child
from nblauncher.grading.graders import Graders
from nblauncher.grading.submission import One, Wanted
from nblauncher.grading.workshop import Pythons, Workshop
from nblauncher.model import Limits
from nblauncher.paths import make_folders
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan, Report, Step
from nblauncher.preflight import kernels
from nblauncher.printable import printable
from nblauncher.server import class_files
from nblauncher.system import workers

_SURVEYING = 600.0
_LOG = "grading.log"
NOTHING: Mapping[str, Any] = {
    **dict.fromkeys(("score", "max_score", "late_seconds", "needs_manual_grade", "graded_at", "failure")),
    "warnings": [],
    "flags": [],
}
"""What a student's entry has who handed in nothing."""


@dataclass
class Run:
    """Open between the first and the last step. `place` exists only in the command's own process and its forks."""

    assignment: str
    looks_only: bool = False
    """A dry run."""
    graders: Graders | None = None
    place: Workshop | None = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By username: of those that are graded already."""
    absent: tuple[str, ...] = ()
    """Who handed in nothing."""
    survey: Mapping[str, Any] | None = None
    """What the first planning found."""

    def opened(self) -> Workshop:
        if self.place is None:
            raise HostError("the place where submissions are graded is not open")
        return self.place

    def descriptors(self) -> Collection[int]:
        return () if self.place is None else self.place.descriptors


def prepare(host: Host, usernames: Sequence[str], assignment: str, run: Run, *, again: bool) -> Plan:
    """Survey and plan. `again` grades also what is graded and unchanged."""
    teacher_tool.refuse_root(host.owner)
    if host.settings.grading.command:
        return _prepare_command(host, usernames, run, again=again)
    python = teacher_tool.python_of(host.paths.grading_environments)
    settings = host.settings.grading
    environment = f"{python.parents[1].name} {kernels.python_of(host.settings)} {host.settings.notebook.environment}"
    order = {
        "root": str(settings.course),
        "assignment": assignment,
        "usernames": list(usernames),
        "environment": environment,
    }
    found = run.survey or _surveyed(host, run, python, order)
    # What is planned again in a moment, under the lock, is the same; it takes a second or two.
    run.survey = None if run.survey else found
    due = _due(run, usernames, found["students"], again=again)
    wanted = _wanted(host, assignment, found)
    steps = tuple(GradeSubmission(name, run, wanted, digest, number) for number, (name, digest) in enumerate(due))
    return _phases(host, OpenWorkshop(run), steps)


def _surveyed(host: Host, run: Run, python: Path, order: Mapping[str, Any]) -> Any:
    """By nbgrader as the run has it loaded, and as a dry run starts it: that leaves nothing on the host."""
    if run.looks_only:
        return teacher_tool.ask(
            host.owner, python, "survey", order, folder=host.settings.grading.course, timeout=_SURVEYING
        )
    make_folders(host.paths)
    place = graders.started(python, host.paths.grading, host.paths.logs / _LOG)
    run.graders = run.stack.enter_context(place)
    return run.graders.survey(host.owner, python, order, _SURVEYING)


def _prepare_command(host: Host, usernames: Sequence[str], run: Run, *, again: bool) -> Plan:
    settings = host.settings.grading
    folder = course_packages.current(host.paths.grading_environments)
    grading = None if folder is None else course_packages.python_in(folder)
    python = Path(kernels.python_of(host.settings))
    about = f"{settings.command} {grading} {python} {sorted(host.settings.notebook.environment.items())}"
    order = (settings.course, run.assignment, list(usernames), about)
    found = workers.run_as(host.owner, teacher_child.survey, *order, timeout=_SURVEYING)
    due = _due(run, usernames, found["students"], again=again)
    pythons = tuple(filter(None, (grading, python)))
    path = os.pathsep.join([*(str(one.parent) for one in pythons), "/usr/local/bin", "/usr/bin", "/bin"])
    wanted = by_command.Wanted(
        **_task(host, run.assignment),
        argv=settings.command,
        environment={**host.settings.notebook.environment, "LANG": "C.UTF-8"},
        path=path,
    )
    steps = tuple(RunProgram(name, run, wanted, digest, number) for number, (name, digest) in enumerate(due))
    return _phases(host, OpenPlace(run, pythons), steps)


def _due(
    run: Run, usernames: Sequence[str], students: Mapping[str, Mapping[str, Any]], *, again: bool
) -> list[tuple[str, str]]:
    """Who is graded now, with the digest of the submission. The others are in `run`."""
    there = [name for name in usernames if students[name]["is_there"]]
    known = {name: records.checked(students[name]["record"]) for name in there}
    due = [name for name in there if again or _digest(known[name]) != students[name]["digest"]]
    run.absent = tuple(name for name in usernames if name not in there)
    run.records = {name: record for name, record in known.items() if record and name not in due}
    return [(name, str(students[name]["digest"])) for name in due]


def _phases(host: Host, opening: Step, steps: Sequence[GradeSubmission | RunProgram]) -> Plan:
    if not steps:
        return Plan()
    run = steps[0].run
    at_once = host.settings.grading.parallel or 2 * (os.cpu_count() or 1)
    _refuse_taken_uids(host, 2 * (len(steps) + at_once))
    return Plan(
        (
            Phase("open", (opening,)),
            Phase("grade", tuple(steps), parallel=at_once, descriptors=run.descriptors, reuses_processes=True),
            Phase("close", (CloseWorkshop(run),)),
        )
    )


@dataclass(frozen=True)
class OpenWorkshop:
    """Start what judges and kernels are forked from."""

    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "load nbgrader and the course's packages"

    def apply(self, host: Host) -> None:
        finder = importlib.util.find_spec("threadpoolctl")
        if finder is None or finder.origin is None:
            raise HostError("the package threadpoolctl is missing")
        if self.run.graders is None:
            raise HostError("the packages that grade are not loaded")
        modules, python = host.settings.notebook.preload, kernels.python_of(host.settings)
        grading = teacher_tool.python_of(host.paths.grading_environments)
        pythons = Pythons(python, modules, self.run.graders, finder.origin)
        notes, log_file = host.paths.state / "grading-preloaded.json", host.paths.logs / _LOG
        os.truncate(log_file, 0)  # not before: another grading may have written it
        place = workshop.opened(host.settings.course, host.paths.grading, (Path(python), grading))
        self.run.place = self.run.stack.enter_context(place)
        self.run.place.load(self.run.stack, pythons, notes, log_file)


@dataclass(frozen=True)
class GradeSubmission(ForOne):
    """One submission, in a forked process of root's."""

    run: Run
    wanted: Wanted
    digest: str
    number: int

    def describe(self) -> str:
        return f"grade {self.wanted.assignment} of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        one = One(self.username, self.digest, self.number)
        record = submission.grade(self.run.opened(), self.wanted, one)
        return {self.username: details(record)}


@dataclass(frozen=True)
class OpenPlace:
    """What a grading program needs: no process is forked from anything."""

    run: Run
    pythons: tuple[Path, ...]
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "make the place where submissions are graded"

    def apply(self, host: Host) -> None:
        place = workshop.opened(host.settings.course, host.paths.grading, self.pythons)
        self.run.place = self.run.stack.enter_context(place)


@dataclass(frozen=True)
class RunProgram(ForOne):
    """grading.command on one submission, in a forked process of root's."""

    run: Run
    wanted: by_command.Wanted
    digest: str
    number: int

    def describe(self) -> str:
        return f"grade {self.wanted.assignment} of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        record = by_command.grade(self.run.opened(), self.wanted, self.username, self.digest, self.number)
        return {self.username: details(record)}


@dataclass(frozen=True)
class CloseWorkshop:
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "end what submissions were graded with"

    def apply(self, host: Host) -> None:
        self.run.stack.close()


def details(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record, as data: what the student's entry says."""
    said = {name: record.get(name) for name in NOTHING if name != "failure"}
    return {**said, "failure": record.get("error")}


def enrich(run: Run, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Entries of those who were graded before, or handed in nothing."""
    return {name: details(record) for name, record in run.records.items() if name in usernames}


def rows(report: Report, run: Run) -> list[tuple[str, str, str, str, str]]:
    """student, score, of, late, remarks"""
    found = []
    for student in report.students.values():
        about = student.details
        score = "" if about.get("score") is None else f"{about['score']:g}"
        most = "" if about.get("max_score") is None else f"{about['max_score']:g}"
        late = _late(about.get("late_seconds") or 0.0)
        found.append((student.username, score, most, late, "; ".join(map(printable, _remarks(student, run)))))
    return found


def without_score(report: Report) -> tuple[str, ...]:
    """Of those that were graded now: whose submission could not be used. The command has not failed."""
    return tuple(student.username for student in report.done if student.details.get("failure"))


def _remarks(student: Any, run: Run) -> list[str]:
    about = student.details
    if student.status == "failed":
        return [f"NOT GRADED: {student.error}"]
    if student.username in run.absent:
        return ["nothing handed in"]
    failure = [f"NOT GRADED: {about['failure']}"] if about.get("failure") else []
    manual = ["needs your grade"] if about.get("needs_manual_grade") and not failure else []
    return [*failure, *about.get("flags", ()), *about.get("warnings", ()), *manual]


def _late(seconds: float) -> str:
    if seconds <= 0:
        return ""
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


def _digest(record: Mapping[str, Any] | None) -> object:
    return record.get("digest") if record else None


def _task(host: Host, assignment: str) -> dict[str, Any]:
    """The fields of grading.task.Task."""
    settings = host.settings.grading
    return {
        "teacher": host.owner,
        "root": settings.course,
        "assignment": assignment,
        "limits": Limits(settings.memory, settings.cpus, settings.processes),
        "seconds": settings.seconds,
        "disk": settings.disk,
        "output": settings.output,
        "uids": settings.uid_range,
    }


def _wanted(host: Host, assignment: str, found: Mapping[str, Any]) -> Wanted:
    python = kernels.python_of(host.settings)
    environment = {
        **host.settings.notebook.environment,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "NBGRADER_EXECUTION": "autograde",
    }
    return Wanted(
        **_task(host, assignment),
        cells=found["cells"],
        kernelspecs=found["kernelspecs"],
        config=found["config"],
        gradebook=base64.b64decode(found["gradebook"]),
        kernel={"argv": class_files.kernel_command(python), "environment": environment},
        max_score=found["max_score"],
    )


def _refuse_taken_uids(host: Host, many: int) -> None:
    """Of as many as are used."""
    taken = [uid for uid in host.settings.grading.uid_range[:many] if not host.accounts.uid_is_free(uid)]
    if taken:
        raise InputError(
            f"grading.uid_range: uid {taken[0]} belongs to an account or group of this host",
            "Submissions are graded as uids that nobody has: choose another range. Nothing was graded.",
        )
