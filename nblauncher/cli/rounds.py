"""A command that waits for deadlines. It works out the next task again and again, and holds nothing in between."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from nblauncher.cli import terminal
from nblauncher.cli.call import Call
from nblauncher.cli.carry_out import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    NO_FILES,
    CommandSpec,
    answer_report,
    open_accepted,
    outcome,
    perform,
)
from nblauncher.commands.deadlines import deadline, pending
from nblauncher.commands.deadlines.copies import Round
from nblauncher.commands.deadlines.deadline import Kind, Seen, Task
from nblauncher.commands.deadlines.pending import CaptureState
from nblauncher.commands.session import Session
from nblauncher.errors import BusyError, HostError
from nblauncher.planning.host import Host, captures_lock
from nblauncher.planning.plan import Plan, Report
from nblauncher.system import interruption

log = logging.getLogger(__name__)

_NAP = 0.5
_NOT_CAPTURED: Mapping[str, Any] = {**NO_FILES, "deadline": None, "captured": None, "late": None}
_SPEC = CommandSpec(
    "Captured the work of {students}.", "the work of {ratio} students was not captured", details=_NOT_CAPTURED
)


@dataclass
class Rounds:
    """The moments that are near or past; with `only`, all moments of that deadline of `retrieve --at`."""

    call: Call
    opened: Session
    only: str = ""
    identity: str = ""
    """Of the course that is meant."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of `--json`."""
    _had_class: bool = False
    _accepted: tuple[int, int, int] | None = None
    _seen: Seen = field(default_factory=Seen)
    _reports: dict[datetime, Report] = field(default_factory=dict)
    """The last capture of each time."""
    _answered: list[Report] = field(default_factory=list)
    _last_message: str = ""

    @property
    def host(self) -> Host:
        return self.opened.host

    def carry_out(self) -> int:
        """Work until nothing is left to begin; the exit code. HostError when the course or the deadline is gone."""
        self._accepted = self._stamp()
        while True:
            self._look_around()
            task = deadline.next_task(self.host, self._seen, _now(), self.only)
            if task is None and not self.host.ledger.members(self.host.settings.course):
                raise self._gone()  # a `remove` takes the students first
            if task is None or (task.kind is not Kind.PUBLISH and self._is_shut_down()):
                break
            if task.kind is Kind.WAIT:
                interruption.sleep(_NAP)
                continue
            try:
                report = self._perform(task)
            except BusyError as error:
                self._tell_once(f"{error.problem}; waiting")
                continue
            if report.was_interrupted:
                self._answer(task.round, report)
                break
        return self._end(task)

    def _perform(self, task: Task) -> Report:
        report = Report.of(task.round.usernames)
        if task.kind is Kind.PUBLISH:
            report = self._reports.setdefault(task.round.at, report)

        def make_plan(host: Host) -> Plan:
            if host.course_ledger.identity() != self.identity:
                raise self._gone()
            return deadline.plan(host, task)

        was_wanted = perform(self.host, make_plan, report, captures_lock(self.host))
        if task.kind is Kind.COPY:
            had = [moment for moment in task.round.moments if "has_had_its_turn" in report[moment.username].details]
            self._seen.had_their_turn(had or task.round.moments, is_last=task.is_last_copy)
        elif was_wanted:
            self._finish(task, report)
        return report

    def _finish(self, task: Task, report: Report) -> None:
        """Do not retry failed students at once; answer when no student is left to capture."""
        self._reports[task.round.at] = report
        left = deadline.left_of(self.host, task)
        self._seen.failed(left)
        is_over = task.kind is Kind.PUBLISH or (left and not deadline.is_on_its_way(self.host, task.round))
        if is_over and not report.was_interrupted:
            self._answer(task.round, report)

    def _answer(self, round_: Round, report: Report) -> None:
        for student in report.students.values():
            student.details = {**_NOT_CAPTURED, **student.details}
        self._answered.append(report)
        if not self.call.as_json:
            answer_report(self.call, report, _SPEC, deadline.summary(self.host, round_))

    def _end(self, task: Task | None) -> int:
        """The exit code for all rounds, and with --json the one answer."""
        together = Report({})
        for report in self._answered:
            together.students |= report.students
            together.was_interrupted |= report.was_interrupted
        together.errors += self._late()
        codes = [outcome(report) for report in self._answered]
        exit_code = _worst([*codes, *([EXIT_PARTIAL] if together.errors else [])])
        if self.call.as_json or not self._answered:
            words = (
                "nothing to do."
                if task is None
                else "the class was shut down; the next launch captures what is still to come."
            )
            answer_report(self.call, together, _SPEC, f"retrieve: {words}", self.about, exit_code=exit_code)
        return exit_code

    def _late(self) -> list[str]:
        """For `retrieve --at`: a line for each late capture."""
        found = pending.captures(self.host, _now()) if self.only else []
        late = [capture for capture in found if capture.deadline == self.only and capture.state is CaptureState.LATE]
        return [f"{capture.username}: {capture.words()}" for capture in late]

    def _look_around(self) -> None:
        """HostError when what we wait for is gone. Takes over a config that was accepted in the meantime."""
        is_there = not self.only or any(added.name == self.only for added in self.host.course_ledger.deadlines())
        if self.host.course_ledger.identity() != self.identity:
            raise self._gone()
        if not is_there:
            raise HostError(
                f"the capture of {self.only} was cancelled, by `retrieve --cancel` or by `shutdown`",
                "Nothing more is captured.",
            )
        if not self.only and (stamp := self._stamp()) != self._accepted:
            self.opened, self._accepted = open_accepted(self.call, self.host.settings.course), stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.host.paths.accepted / "notebooks.cfg")
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _is_shut_down(self) -> bool:
        """Whether `shutdown` ran since we began. A killed supervisor leaves socket and desired states."""
        self._had_class |= self.host.paths.supervisor_socket.exists()
        is_gone = self._had_class and not self.host.paths.supervisor_socket.exists()
        return is_gone and not self.only and set(self.host.course_ledger.desired().values()) <= {"down"}

    def _gone(self) -> HostError:
        return HostError(f"course {self.host.settings.course} was removed", "Nothing more is captured.")

    def _tell_once(self, words: str) -> None:
        if words != self._last_message:
            terminal.tell(words)
            self._last_message = words


def begin(call: Call, opened: Session, only: str = "", about: Mapping[str, Any] = MappingProxyType({})) -> Rounds:
    """For the course as it is now. HostError when there is none."""
    opened.host.course_ledger.settle()
    return Rounds(call, opened, only, opened.host.course_ledger.identity(), about)


def _worst(codes: Collection[int]) -> int:
    """The exit code for several rounds: failed only if each one failed."""
    if EXIT_INTERRUPTED in codes:
        return EXIT_INTERRUPTED
    return next(iter(codes)) if len(set(codes)) == 1 else EXIT_PARTIAL if any(codes) else 0


def _now() -> datetime:
    return datetime.now().astimezone()
