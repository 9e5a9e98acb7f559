"""A plan is data: phases of steps. `apply` carries it out, and is the only place where the host changes."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nblauncher.errors import HostError, NblauncherError
from nblauncher.model import ROOT
from nblauncher.planning.host import Host
from nblauncher.system import interruption, workers
from nblauncher.system.crew import Call, Crew

log = logging.getLogger(__name__)

Details = Mapping[str, Any]
"""What a step adds to a student's entry in the report; JSON-able."""

_LONGEST_STEP = 24 * 3600.0


class Step(Protocol):
    """One change. A frozen dataclass with `describe` and `apply`."""

    @property
    def usernames(self) -> tuple[str, ...]:
        """The students concerned; empty: the whole course. A field in a step for many: failed students drop out."""
        ...

    def describe(self) -> str:
        """The dry-run line, the log line, the progress line."""
        ...

    def apply(self, host: Host) -> Mapping[str, Details] | None:
        """Make the change. Returns details by username; raises NblauncherError, or SomeFailed for some of many."""
        ...


@dataclass(frozen=True)
class ForOne:
    """The base of the steps for one student."""

    username: str

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)


class SomeFailed(NblauncherError):
    """A step for many students failed for these (username → why)."""

    def __init__(self, failures: Mapping[str, str], hint: str = "") -> None:
        super().__init__(", ".join(f"{username} ({why})" for username, why in failures.items()), hint)
        self.failures = failures


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of change for all students. With `parallel` above 1 each step runs in its own forked process."""

    title: str
    steps: tuple[Step, ...]
    parallel: int = 1
    descriptors: Callable[[], Collection[int]] = tuple
    """Open descriptors that the forked processes keep; called when the phase begins."""
    reuses_processes: bool = False
    """A forked process applies one step after the other: they are short, and trust each other."""
    is_preparation: bool = False
    """Applied before the locks are taken: it may take an hour, and changes nothing that other commands read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Phases run in order for the whole class. `notes` are shown to the teacher and change nothing."""

    phases: tuple[Phase, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for phase in self.phases for step in phase.steps)

    @property
    def is_empty(self) -> bool:
        return not self.steps

    @property
    def preparation(self) -> Plan:
        """The part that is applied before the locks are taken."""
        return Plan(tuple(phase for phase in self.phases if phase.is_preparation))


@dataclass
class StudentReport:
    """`status`: done, unchanged, failed or skipped; `error` says why in words."""

    username: str
    status: str = "unchanged"
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_incomplete(self) -> bool:
        """Something that may hold work was left out, and the teacher did not have it deleted all the same."""
        left_out = any(exclusion.get("incomplete") for exclusion in self.details.get("exceptions", ()))
        return left_out and not self.details.get("deleted")


@dataclass
class Report:
    """What became of a plan, student by student."""

    students: dict[str, StudentReport]
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    was_interrupted: bool = False

    @classmethod
    def of(cls, usernames: Iterable[str]) -> Report:
        return cls({username: StudentReport(username) for username in usernames})

    def __getitem__(self, username: str) -> StudentReport:
        return self.students.setdefault(username, StudentReport(username))

    @property
    def failed(self) -> tuple[StudentReport, ...]:
        return tuple(student for student in self.students.values() if student.status == "failed")

    @property
    def done(self) -> tuple[StudentReport, ...]:
        return tuple(student for student in self.students.values() if student.status == "done")

    @property
    def is_partial(self) -> bool:
        return bool(self.failed) or any(student.is_incomplete for student in self.students.values())

    def fail(self, username: str, why: str) -> None:
        student = self[username]
        student.status, student.error = "failed", why
        log.error("%s: %s", username, why)

    def add(self, username: str, details: Details) -> None:
        """A step is done for the student. `is_unchanged` among the details: there was nothing to do."""
        student = self[username]
        details = dict(details)
        is_unchanged = details.pop("is_unchanged", False)
        if student.status != "failed":
            student.status = "unchanged" if is_unchanged else "done"
        exceptions = [*student.details.get("exceptions", ()), *details.get("exceptions", ())]
        deleted = [*details.get("deleted", ()), *student.details.get("deleted", ())]
        student.details.update(details)
        if exceptions:
            student.details["exceptions"] = exceptions
        if deleted:
            student.details["deleted"] = deleted


Notify = Callable[[str, int, int], None]
"""Called after each step with its line, how many steps are done, and how many there are."""


def apply(
    plan: Plan,
    host: Host,
    report: Report,
    notify: Notify = lambda _line, _done, _total: None,
    begins: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Carry the plan out. `begins` is called with a step's line before it is applied, `notify` when it is done.

    One student's failure does not stop the others; a failed step of the whole course does. A signal ends it after the
    current step (see interruption): the report has what was done, and students with steps still to come are `skipped`.
    """
    done = 0
    total = len(plan.steps)
    to_come = Counter(username for step in plan.steps for username in step.usernames)
    try:
        for phase in plan.phases:
            log.info("phase: %s", phase.title)
            carry_out = _in_parallel if phase.parallel > 1 else _in_turn
            finished = carry_out(phase, host, report, begins)
            for step in finished:
                done += 1
                to_come.subtract(step.usernames)
                notify(step.describe(), done, total)
    except KeyboardInterrupt:
        report.was_interrupted = True
        for student in report.students.values():
            if student.status != "failed" and to_come[student.username] > 0:
                student.status = "skipped"
    return report


def _in_turn(phase: Phase, host: Host, report: Report, begins: Callable[[str], None]) -> Iterable[Step]:
    for step in _remaining(phase.steps, report):
        interruption.check()
        log.info("%s", step.describe())
        begins(step.describe())
        try:
            _record(step, step.apply(host), report)
        except NblauncherError as error:
            _record_failure(step, error, report)
        except OSError as error:
            log.exception("%s", step.describe())
            _record_failure(step, HostError(f"{error.strerror or error} ({error.filename or step.describe()})"), report)
        yield step


def _in_parallel(phase: Phase, host: Host, report: Report, begins: Callable[[str], None]) -> Iterable[Step]:
    """Forked processes instead of threads: the steps fork workers, and forking with threads is not safe."""
    steps = tuple(_remaining(phase.steps, report))
    keep = {*log_descriptors(), *phase.descriptors()}
    crew = Crew(ROOT, lambda number: _apply_as_json(steps[number], host), keep=keep)
    waiting = list(range(len(steps)))
    running: dict[int, tuple[Step, workers.Worker | Call]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < phase.parallel:
                number = waiting.pop(0)
                step = steps[number]
                log.info("%s", step.describe())
                begins(step.describe())
                try:
                    worker = (
                        crew.call(number)
                        if phase.reuses_processes
                        else workers.start(ROOT, _apply_as_json, step, host, keep=keep)
                    )
                except HostError as error:
                    _record_failure(step, error, report)
                    yield step
                else:
                    running[worker.fileno()] = (step, worker)
            for descriptor in interruption.wait(running) if running else ():
                step, worker = running.pop(descriptor)
                try:
                    answer = worker.result(_LONGEST_STEP)
                    if answer["failures"]:
                        raise SomeFailed(answer["failures"])
                    _record(step, answer["details"], report)
                except NblauncherError as error:
                    _record_failure(step, error, report)
                yield step
    finally:
        for _step, worker in running.values():
            worker.stop()
        crew.dismiss()


def log_descriptors() -> tuple[int, ...]:
    """The log's descriptors, which root's forked steps keep."""
    return tuple(
        handler.stream.fileno()
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.FileHandler) and handler.stream is not None
    )


def _apply_as_json(step: Step, host: Host) -> Mapping[str, Any]:
    try:
        return {"details": step.apply(host) or {}, "failures": {}}
    except SomeFailed as error:
        return {"details": {}, "failures": dict(error.failures)}


def _remaining(steps: Iterable[Step], report: Report) -> Iterable[Step]:
    """The steps, without the students who failed."""
    for step in steps:
        wanted = tuple(name for name in step.usernames if report[name].status != "failed")
        if wanted == step.usernames:
            yield step
        elif wanted:
            yield dataclasses.replace(step, usernames=wanted)  # type: ignore[type-var]


def _record(step: Step, details: Mapping[str, Details] | None, report: Report) -> None:
    for username in step.usernames:
        report.add(username, {})
    for username, more in (details or {}).items():
        report.add(username, more)


def _record_failure(step: Step, error: NblauncherError, report: Report) -> None:
    if isinstance(error, SomeFailed):
        for username in step.usernames:
            if username not in error.failures:
                report.add(username, {})
        for username, why in error.failures.items():
            report.fail(username, why)
    elif len(step.usernames) == 1:
        report.fail(step.usernames[0], error.problem if not error.hint else f"{error.problem} ({error.hint})")
    elif step.usernames and isinstance(error, HostError):
        for username in step.usernames:
            report.fail(username, error.problem)
    else:
        raise error
