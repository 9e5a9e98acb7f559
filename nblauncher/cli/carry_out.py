"""read → survey → plan → (ask) → lock → survey → plan → apply → report, the same for every command."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from nblauncher import __version__
from nblauncher.cli import plans, render, terminal
from nblauncher.cli.call import Call
from nblauncher.errors import InputError, RefusedError
from nblauncher.model import ServerState
from nblauncher.paths import CoursePaths, make_folders
from nblauncher.printable import printable
from nblauncher.system import interruption, logs

if TYPE_CHECKING:
    from nblauncher.commands.session import Session
    from nblauncher.planning.host import Host
    from nblauncher.planning.plan import Plan, Report, StudentReport

log = logging.getLogger(__name__)

EXIT_PARTIAL = 5
EXIT_INTERRUPTED = 130
_STATUS = {0: "ok", 1: "failed", EXIT_PARTIAL: "partial", EXIT_INTERRUPTED: "partial"}

NO_FILES: Mapping[str, Any] = {"files": 0, "bytes": 0, "exceptions": []}
"""What a student's entry has where no file was delivered or retrieved."""

NO_MATERIAL: Mapping[str, Any] = {**NO_FILES, "changes": []}
NO_SERVER: Mapping[str, Any] = {"server": ServerState.STOPPED.value, "port": None, "url": None}
"""Of a student who is not set up."""
STOPPED: Mapping[str, Any] = {"server": ServerState.STOPPED.value, "unproven": []}

_Enrich: TypeAlias = "Callable[[Host, Sequence[str]], dict[str, dict[str, Any]]]"


@dataclass(frozen=True)
class CommandSpec:
    """What a command does to the course, and the sentences that report it."""

    success: str
    """The summary where `Prepared.summarize` returns nothing: `Froze {students}.`"""
    failure: str
    """`{ratio} students were not frozen`: ratio is `2 of 31`."""
    enrich: _Enrich = lambda _host, _usernames: {}
    """Details by username that the report carries besides those of the steps."""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What every student's entry has, also where nothing was to do."""
    with_front_page: bool = False
    """Whether `--json` names the front page's address."""
    is_destructive: bool = False
    warning: Callable[[Plan], str] = lambda _plan: ""
    """What stands before the question: what is final."""
    lock: Callable[[Host], Path] | None = None
    """Instead of the course's."""
    touches_accounts: bool = False
    makes_course: bool = True
    """Whether to make the course's folders. Not in a command that was started long ago: the course may be over."""


@dataclass(frozen=True)
class Prepared:
    """A plan, and how to report it once it was carried out."""

    plan: Plan
    summarize: Callable[[Host, Report], str] = lambda _host, _report: ""
    """More of the answer."""
    tabulate: Callable[[Report], str] | None = None
    """What became of every file, instead of the list of what was left out."""
    preview: str = ""
    """Shown below the plan: which file, say, is new to how many students."""


def open_session(call: Call, *, needs_roster: bool = False, takes_over: bool = False) -> Session:
    """Inputs and host; from here on there is a log if the course has one."""
    if call.verbosity:
        terminal.shows_no_work()
    terminal.works(f"{call.command}: reading the config")
    from nblauncher.commands import session as sessions

    interruption.check()
    caller = sessions.caller(os.environ)
    session = sessions.open_session(caller, call.config, call.files, needs_roster=needs_roster, takes_over=takes_over)
    call.log_file = logs.start(session.host.paths.logs if caller.is_root else None, call.verbosity)
    log.info("nblauncher %s %s for course %s", __version__, call.command, session.settings.course)
    if call.sections:
        _resolve_sections(call, session)
    _thaw_forgotten(call, session)
    return session


def _resolve_sections(call: Call, session: Session) -> None:
    """The students of --section join those of --only. Without a roster on the command line only those who are set up
    can be acted on.
    """
    from nblauncher.commands import session as sessions
    from nblauncher.config import sections

    members = None if session.roster else session.host.ledger.members(session.settings.course)
    wanted = sections.members(sessions.current_roster(session), call.sections)
    if members is not None:
        present = wanted & members.keys()
        if not present:
            raise InputError(f"--section: no student of {_listed(call.sections)} is set up", "Nothing was changed.")
        if absent := sorted(wanted - present):
            terminal.tell(f"Note: not set up yet, and left out: {render.names_words(absent)}")
        wanted = present
    call.only |= wanted


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(f'"{printable(text)}"' for text in texts)


def open_accepted(call: Call, course: str) -> Session:
    """For a command that the supervisor or systemd runs. It starts with the log: there is no reader for its output."""
    from nblauncher.commands import session as sessions

    caller = sessions.caller(os.environ)
    sessions.require_root(caller, call.command)
    call.log_file = logs.start(CoursePaths(course).logs, call.verbosity)
    session = sessions.open_accepted(caller, course)
    _thaw_forgotten(call, session)
    return session


def _thaw_forgotten(call: Call, session: Session) -> None:
    """Before anything else: thaw students left frozen by a killed capture, and watch those frozen by `freeze`."""
    from nblauncher.commands.deadlines import freeze

    if not session.caller.is_root or call.is_dry_run:
        return
    if names := freeze.thaw_left_behind(session.host):
        terminal.tell(f"A capture was killed and left students frozen. Thawed them: {', '.join(names)}")
    freeze.keep_watch(session.host)


def students_of(session: Session, call: Call) -> tuple[str, ...]:
    """The students that the command acts on: the roster's if there is one, else the course's; only those of --only."""
    known = session.roster.usernames if session.roster else tuple(session.host.ledger.members(session.settings.course))
    unknown = sorted(call.only - frozenset(known))
    if unknown:
        raise InputError([f'--only: there is no student "{printable(name)}"' for name in unknown], near(unknown, known))
    return tuple(name for name in known if not call.only or name in call.only)


def near(unknown: Sequence[str], known: Sequence[str]) -> str:
    """What to do about names that are not in the course: those that may have been meant, or where the names are."""
    if not known:
        return "No student is set up in this course yet: run `nblauncher setup`."
    from difflib import get_close_matches

    meant = dict.fromkeys(match for name in unknown for match in get_close_matches(name, known, 2, 0.7))
    return f"Did you mean {' or '.join(meant)}?" if meant else "`nblauncher status` lists the students of the course."


def change(call: Call, session: Session, prepare: Callable[[Host], Prepared], spec: CommandSpec) -> int:
    """Carry out what `prepare` plans and report it; the exit code."""
    from nblauncher.commands import session as sessions
    from nblauncher.planning.plan import Report

    host = session.host
    interruption.check()
    if not call.is_dry_run:
        sessions.require_root(session.caller, call.command)
    terminal.works(f"{call.command}: looking at the host")
    prepared = prepare(host)
    plan = prepared.plan
    if call.is_dry_run:
        terminal.answer(call, _shown(call, prepared), 0, plan=_lines(plan), notes=list(plan.notes))
        return 0
    for note in plans.notes(plan.notes, every_note=bool(call.verbosity)):
        terminal.tell(f"Note: {note}")
    report = Report.of(students_of(session, call))
    if not plan.is_empty:
        if spec.is_destructive:
            terminal.confirm(call, _shown(call, prepared), spec.warning(plan))
        if spec.makes_course:
            make_folders(host.paths)
        call.log_file = logs.start(host.paths.logs, call.verbosity)
        prepared = _apply(host, prepare, report, spec, first=prepared)
        report.was_interrupted |= interruption.came()
    for username, details in spec.enrich(host, tuple(report.students)).items():
        report[username].details.update(details)
    for student in report.students.values():
        student.details = {**spec.details, **student.details}
    front_page = {"front_page": host.frontend.front_page} if spec.with_front_page else {}
    summary = prepared.summarize(host, report)
    if not summary and plan.is_empty:
        summary = f"{call.command}: nothing to do."
        if not report.students and call.command not in ("remove", "shutdown"):
            summary += f" {near((), ())}"
    return answer_report(call, report, spec, summary, front_page, tabulate=prepared.tabulate)


def _apply(
    host: Host, prepare: Callable[[Host], Prepared], report: Report, spec: CommandSpec, *, first: Prepared
) -> Prepared:
    """What was carried out. `first` was prepared without the locks, and so are its long steps, so that other courses do
    not wait; under the locks the host is surveyed again: another process may have changed it.
    """
    from nblauncher.planning.locks import holding

    lock = spec.lock(host) if spec.lock else None
    makes = spec.makes_course
    with terminal.progress(len(first.plan.steps)) as shown:
        _carry_out(first.plan.preparation, host, report, shown)
        if report.was_interrupted:
            return first
        with holding(host, lock, touches_accounts=spec.touches_accounts, makes_folder=makes) as host:
            if makes:
                make_folders(host.paths)  # again: a `remove` that we waited for may have ended the course
            prepared = prepare(host)
            plan = prepared.plan
            if spec.is_destructive and _lines(plan) != _lines(first.plan):
                raise RefusedError("the host changed before you confirmed; nothing was done", "Run the command again.")
            if not plan.preparation.is_empty:
                raise RefusedError(
                    f"this was done and must be done again: {plan.preparation.steps[0].describe()}",
                    "The course was removed or changed meanwhile. Nothing else was changed. Run the command again.",
                )
            for note in plan.notes:
                if note not in first.plan.notes:  # known only after the preparation: what a release leaves out, say
                    terminal.tell(f"Note: {printable(note)}")
            _carry_out(plan, host, report, shown)
            return prepared


def _shown(call: Call, prepared: Prepared) -> str:
    plan = plans.text(call.command, prepared.plan, every_step=bool(call.verbosity))
    return f"{plan}\n\n{prepared.preview}" if prepared.preview else plan


def _lines(plan: Plan) -> list[str]:
    return [step.describe() for step in plan.steps]


def _carry_out(plan: Plan, host: Host, report: Report, shown: terminal.Progress) -> None:
    from nblauncher.planning.plan import apply

    shown.done, shown.total = 0, len(plan.steps)
    apply(plan, dataclasses.replace(host, tell=shown.tells), report, shown.is_done, shown.begins)


def perform(host: Host, make_plan: Callable[[Host], Plan], report: Report, lock: Path) -> bool:
    """Carry out what was requested long ago. It creates nothing of the course's, which may be over.

    `make_plan` checks again, under the lock, what is still wanted; False when nothing is. HostError when the course is
    gone.
    """
    from nblauncher.planning.locks import holding

    with holding(host, lock, makes_folder=False) as host:
        plan = make_plan(host)
        for note in plan.notes:
            terminal.tell(f"Note: {printable(note)}")
        if not plan.is_empty:
            with terminal.progress(len(plan.steps)) as shown:
                _carry_out(plan, host, report, shown)
        return not plan.is_empty


def answer_report(
    call: Call,
    report: Report,
    spec: CommandSpec,
    summary: str,
    about: Mapping[str, Any] = MappingProxyType({}),
    *,
    tabulate: Callable[[Report], str] | None = None,
    exit_code: int | None = None,
) -> int:
    """Report the result for every student; the exit code, which the report decides unless it is one of several.

    `about` are further keys of `--json`.
    """
    if exit_code is None:
        exit_code = outcome(report)
    trouble = render.failures_text(report, spec.failure, f"Fix this, then run `nblauncher {call.command}` again.")
    exceptions = "" if tabulate else render.exceptions_text(report)
    for text in (exceptions, trouble):
        if text and not call.as_json:
            terminal.story(text)
    if not summary:
        summary = spec.success.format(**_counts(len(report.done)))
    if tabulate and (table := tabulate(report)):
        summary = f"{table}\n\n{summary}"
    if report.was_interrupted:
        summary = f"Interrupted. {summary} Run `nblauncher {call.command}` again to go on."
    errors = [f"{student.username}: {student.error}" for student in report.failed] + report.errors
    students = [render.student_entry(student) for student in report.students.values()]
    terminal.answer(call, summary, exit_code, status=_STATUS[exit_code], students=students, errors=errors, **about)
    return exit_code


def _counts(number: int) -> dict[str, str]:
    return {f"{noun}s": f"{number} {noun}{'' if number == 1 else 's'}" for noun in ("student", "server", "home")}


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
    """True also if the work was retrieved before the removal failed."""
    return student.is_incomplete or bool(student.details.get("files"))
