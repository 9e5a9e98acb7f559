"""read → survey → plan → (ask) → lock → survey → plan → apply → report, the same for every command."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nblauncher import __version__, interruption, logs, render
from nblauncher.cli import talk
from nblauncher.cli.call import Call
from nblauncher.commands import freeze
from nblauncher.commands import session as sessions
from nblauncher.commands.session import Session
from nblauncher.course import CoursePaths, make_folders
from nblauncher.errors import InputError, RefusedError
from nblauncher.host import Host, course_lock, host_lock
from nblauncher.ledger import locked
from nblauncher.model import ServerState
from nblauncher.plan import Notify, Plan, Report, StudentReport, apply
from nblauncher.printable import printable

log = logging.getLogger(__name__)

EXIT_PARTIAL = 5
EXIT_INTERRUPTED = 130
_STATUS = {0: "ok", 1: "failed", EXIT_PARTIAL: "partial", EXIT_INTERRUPTED: "partial"}

NO_FILES: Mapping[str, Any] = {"files": 0, "bytes": 0, "exceptions": []}
"""What a student's entry has where no file was carried."""

NO_MATERIAL: Mapping[str, Any] = {**NO_FILES, "changes": []}
NO_SERVER: Mapping[str, Any] = {"server": ServerState.STOPPED.value, "port": None, "url": None}
"""Of a student who is not set up."""
STOPPED: Mapping[str, Any] = {"server": ServerState.STOPPED.value, "unproven": []}

_Enrich = Callable[[Host, Sequence[str]], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Deed:
    """How a command talks about what it does."""

    done: str
    """"31 students DONE.", "2 of 31 students were not DONE"."""
    summary: Callable[[Host, Report], str] = lambda _host, _report: ""
    """More of the answer, said after the plan was carried out."""
    table: Callable[[Report], str] | None = None
    """What became of every file, instead of the list of what was left out."""
    enrich: _Enrich = lambda _host, _usernames: {}
    """Details by username that the report carries besides those of the steps."""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What every student's entry has, also where nothing was to do."""
    with_front_page: bool = False
    """Whether `--json` names the front page's address."""
    is_destructive: bool = False
    lock: Callable[[Host], Path] = course_lock
    touches_accounts: bool = False
    makes_course: bool = True
    """Whether the course's folders are made; not by what was started long ago: the course may have ended since."""


def open_session(call: Call, *, needs_roster: bool = False, takes_over: bool = False) -> Session:
    """Inputs and host; from here on there is a log if the course has one."""
    who = sessions.caller(os.environ)
    session = sessions.open_session(who, call.config, call.files, needs_roster=needs_roster, takes_over=takes_over)
    call.log_file = logs.start(session.host.paths.logs if who.is_root else None, call.verbosity)
    log.info("nblauncher %s %s for course %s", __version__, call.command, session.settings.course)
    _let_go(call, session)
    return session


def open_accepted(call: Call, course: str) -> Session:
    """For a command that nobody typed. The log comes first: nobody reads what it would say."""
    who = sessions.caller(os.environ)
    sessions.require_root(who, call.command)
    call.log_file = logs.start(CoursePaths(course).logs, call.verbosity)
    session = sessions.open_accepted(who, course)
    _let_go(call, session)
    return session


def _let_go(call: Call, session: Session) -> None:
    """Before anything else: a class that a killed capture left frozen goes on, and who is frozen is watched."""
    if not session.caller.is_root or call.is_dry_run:
        return
    if names := freeze.let_go_forgotten(session.host):
        talk.tell(f"A capture was killed and left these students frozen; they go on now: {', '.join(names)}")
    freeze.keep_watch(session.host)


def students_of(session: Session, call: Call) -> tuple[str, ...]:
    """Whom the command is about: the roster when there is one, else the course's students; within --only."""
    known = session.roster.usernames if session.roster else tuple(session.host.ledger.members(session.settings.course))
    unknown = sorted(call.only - frozenset(known))
    if unknown:
        raise InputError([f'--only: there is no student "{printable(name)}"' for name in unknown])
    return tuple(name for name in known if not call.only or name in call.only)


def change(call: Call, session: Session, make_plan: Callable[[Host], Plan], deed: Deed) -> int:
    """Carry out what `make_plan` says and report it; the exit code."""
    host = session.host
    interruption.check()
    plan = make_plan(host)
    if call.is_dry_run:
        steps = [step.describe() for step in plan.steps]
        talk.answer(call, render.plan_text(call.command, plan), 0, plan=steps, notes=list(plan.notes))
        return 0
    sessions.require_root(session.caller, call.command)
    for note in plan.notes:
        talk.tell(f"Note: {printable(note)}")
    report = Report.of(students_of(session, call))
    if not plan.is_empty:
        if deed.is_destructive:
            talk.confirm(call, plan)
        if deed.makes_course:
            make_folders(host.paths)
        call.log_file = logs.start(host.paths.logs, call.verbosity)
        _apply(host, make_plan, report, deed, first=plan)
        report.was_interrupted |= interruption.came()
    for username, details in deed.enrich(host, tuple(report.students)).items():
        report[username].details.update(details)
    for student in report.students.values():
        student.details = {**deed.details, **student.details}
    front_page = {"front_page": host.frontend.front_page} if deed.with_front_page else {}
    more = deed.summary(host, report)
    if not more and plan.is_empty:
        more = f"{call.command}: nothing to do."
    return answer_report(call, report, deed, more, front_page)


def _apply(host: Host, make_plan: Callable[[Host], Plan], report: Report, deed: Deed, *, first: Plan) -> None:
    """`first` is what was planned without the locks. What takes long is prepared without them, so that other courses do
    not wait; under them the host is looked at once more: somebody may have been quicker.
    """
    makes = deed.makes_course
    with talk.progress() as notify:
        _carry_out(first.preparation, host, report, notify)
        if report.was_interrupted:
            return
        with _locks(host, deed.lock(host), deed.touches_accounts, makes_folder=makes) as locks:
            if makes:
                make_folders(host.paths)  # once more: a `remove` that we waited for may have ended the course
            host = dataclasses.replace(host, locks=locks)
            plan = make_plan(host)
            if deed.is_destructive and [one.describe() for one in plan.steps] != [
                one.describe() for one in first.steps
            ]:
                raise RefusedError("the host changed while you were asked; nothing was done", "Run the command again.")
            if not plan.preparation.is_empty:
                raise RefusedError(
                    f"what was prepared is gone: {plan.preparation.steps[0].describe()}",
                    "The course was removed or changed meanwhile; nothing else was changed. Run the command again.",
                )
            _carry_out(plan, host, report, notify)


def _carry_out(plan: Plan, host: Host, report: Report, notify: Notify) -> None:
    reached = (0, len(plan.steps))

    def step_done(line: str, done: int, total: int) -> None:
        nonlocal reached
        reached = (done, total)
        notify(line, done, total)

    apply(plan, dataclasses.replace(host, tell=lambda line: notify(line, *reached)), report, step_done)


def perform(host: Host, make_plan: Callable[[Host], Plan], report: Report, lock: Path) -> bool:
    """Carry out what was asked for long ago, where the course may have ended since: it makes nothing of the course's.

    `make_plan` looks again, under the lock, whether it is still wanted; False when nothing is. HostError when there is
    no course any more.
    """
    with _locks(host, lock, touches_accounts=False, makes_folder=False) as locks:
        host = dataclasses.replace(host, locks=locks)
        plan = make_plan(host)
        for note in plan.notes:
            talk.tell(f"Note: {printable(note)}")
        if not plan.is_empty:
            with talk.progress() as notify:
                _carry_out(plan, host, report, notify)
        return not plan.is_empty


def answer_report(
    call: Call,
    report: Report,
    deed: Deed,
    summary: str,
    about: Mapping[str, Any] = MappingProxyType({}),
    *,
    exit_code: int | None = None,
) -> int:
    """Say what became of everybody; the exit code, which the report decides unless it is one of several.

    `about`: what `--json` says besides.
    """
    if exit_code is None:
        exit_code = outcome(report)
    trouble = render.failures_text(report, deed.done, f"Run `nblauncher {call.command}` again when that is mended.")
    exceptions = "" if deed.table else render.exceptions_text(report)
    for text in (exceptions, trouble):
        if text and not call.as_json:
            talk.story(text)
    if not summary:
        summary = f"{len(report.done)} {'student' if len(report.done) == 1 else 'students'} {deed.done}."
    if deed.table and (table := deed.table(report)):
        summary = f"{table}\n\n{summary}"
    if report.was_interrupted:
        summary = f"Interrupted. {summary} Run `nblauncher {call.command}` again to go on."
    errors = [f"{student.username}: {student.error}" for student in report.failed] + report.errors
    students = [render.student_entry(student) for student in report.students.values()]
    talk.answer(call, summary, exit_code, status=_STATUS[exit_code], students=students, errors=errors, **about)
    return exit_code


def outcome(report: Report) -> int:
    """The exit code."""
    if report.was_interrupted:
        return EXIT_INTERRUPTED
    if not report.is_partial:
        return 0
    if len(report.failed) == len(report.students) and not any(map(_has_brought_work, report.failed)):
        return 1
    return EXIT_PARTIAL


def _has_brought_work(student: StudentReport) -> bool:
    """Not nothing: the work of a student whose removal failed afterwards was retrieved."""
    return student.is_incomplete or bool(student.details.get("files"))


@contextmanager
def _locks(host: Host, lock: Path, touches_accounts: bool, *, makes_folder: bool = True) -> Iterator[tuple[int, ...]]:
    with ExitStack() as stack:
        course = f"course {host.settings.course}"
        locks = [stack.enter_context(locked(lock, course, makes_folder=makes_folder))]
        if touches_accounts:
            locks.append(stack.enter_context(locked(host_lock(host), "this host's accounts")))
        yield tuple(locks)
