"""retrieve --assignment: one folder of every student, on-time and late work, laid out for grading."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from nblauncher.commands import retrieve
from nblauncher.commands.deadlines import folders
from nblauncher.commands.deadlines.pending import TROUBLE, Captured, CaptureState, captures
from nblauncher.commands.grading import submissions
from nblauncher.commands.retrieve import AT_ONCE, LONGEST, OpenStaging, Run, notes, work_details
from nblauncher.errors import HostError, InputError
from nblauncher.exchange import homes
from nblauncher.exchange.retrieve import assignment, collection, store
from nblauncher.exchange.retrieve.assignment import Assignment
from nblauncher.exchange.retrieve.scope import ALL, Scope
from nblauncher.exchange.rows import exclusion_from
from nblauncher.ledger import Capture
from nblauncher.model import Exclusion
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, ForOne, Phase, Plan, Report
from nblauncher.printable import printable
from nblauncher.system import workers

log = logging.getLogger(__name__)

_LONGEST_ARRANGING = 600.0
_MOST_NAMED = 20


def prepare(host: Host, usernames: Sequence[str], folder: str, *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware, in the host's zone.

    InputError when `folder` is not in the material and no student made one of that name either.
    """
    facts = survey.survey(host, usernames)
    meant = folders.meant(host, folder, "--assignment")
    folder = meant.folder
    wanted = [name for name in usernames if name in facts.members]
    names = _deadlines_of(host, folder)
    if wanted and not meant.is_there and not _is_anywhere(host, wanted, folder, names):
        raise InputError(
            f"--assignment: {printable(folder)} is not a folder of the material, and no student has one of that name",
            _hint(host),
        )
    run = Run(now, "-".join(filter(None, (store.folder_part(folder), store.students_part(wanted, facts.members)))))
    became = _became(host, names, now)
    if not wanted:
        return Plan((), notes(usernames, facts)), run
    phases = (
        Phase("open the retrieval", (OpenStaging(run),)),
        Phase("retrieve", tuple(_collect(name, folder, names, run, became) for name in wanted), parallel=AT_ONCE),
        Phase("publish", (PublishAssignment(run),)),
    )
    more, about = submissions.phases(host, folder, run, tuple(wanted))
    return Plan((*phases, *more), (*notes(usernames, facts), *about)), run


@dataclass(frozen=True)
class CollectAssignment(ForOne):
    """The folder as it is now, and as it was at its deadline if that was captured."""

    folder: str
    deadlines: frozenset[str]
    """Names of the deadlines of this folder."""
    run: Run
    became: Captured | None = None
    """What became of the student's last past moment; if it was postponed, of the earlier one."""
    to_come: Captured | None = None
    is_again: bool = False
    """Whether it supersedes an earlier capture."""

    def describe(self) -> str:
        return f"retrieve {self.folder} of {self.username}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        account = survey.student_account(host, self.username)
        staging = self.run.opened()
        prefix = f"{self.folder}/"
        given = host.course_ledger.handed_out(self.username, "material")
        scope = Scope(
            ALL,
            f"{host.settings.material.target}/{self.folder}",
            {path.removeprefix(prefix): given_file for path, given_file in given.items() if path.startswith(prefix)},
            sought=folders.sought(host, self.username, self.folder),
        )
        collected = collection.collect(account, host.owner, staging, scope, host.settings.retrieve, longest=LONGEST)
        captured = _captured(host, self.username, self.deadlines)
        order = Assignment(
            staging.target,
            staging.name,
            self.username,
            self.folder,
            host.settings.retrieve.layout,
            _stamp(self.run.time),
            captured.retrieved if captured else "",
            _stamp(min(captured.at, captured.captured)) if captured else "",
        )
        try:
            about = workers.run_as(host.owner, assignment.arrange, order, timeout=_LONGEST_ARRANGING)
        except HostError:
            self._discard(host, staging)
            raise
        then = [exclusion_from(row) for row in about["left_out"]]
        now = collected.work.exclusions
        # The capture counts. If the folder disappeared afterwards, report that, but not as a failure.
        now = tuple(
            replace(exclusion, incomplete=False) if captured and exclusion.path == "work" else exclusion
            for exclusion in now
        )
        details = work_details(about["files"], about["bytes"], [*then, *now, *self._trouble()])
        is_missing = not about["files"] and any(
            exclusion.incomplete and _is_folder(exclusion, self.folder) for exclusion in (*then, *now)
        )
        return {
            self.username: {
                **details,
                "handed_in": about["handed_in"],
                "late": about["late"],
                "folder_missing": is_missing,
                "capture": {**self.became.entry(), "is_again": self.is_again} if self.became else None,
                "until": self.to_come.entry()["at"] if self.to_come else None,
            }
        }

    def _trouble(self) -> list[Exclusion]:
        """A capture that failed or came late: the work is not what existed at the moment. What an incomplete capture
        lacks is in its manifest.
        """
        if self.became is None or self.became.state not in TROUBLE or self.became.state is CaptureState.INCOMPLETE:
            return []
        return [Exclusion(self.folder, self.became.words(), incomplete=True)]

    def _discard(self, host: Host, staging: store.Staging) -> None:
        """Discard all of this student's files: half an assignment must not be graded."""
        layers = ("", f"{assignment.SUBMITTED}/", f"{assignment.LATE}/")
        for layer in layers if host.settings.retrieve.layout == assignment.NBGRADER else layers[:1]:
            store.discard_student(host.owner, staging.target, staging.name, f"{layer}{self.username}")


@dataclass(frozen=True)
class PublishAssignment:
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "publish the retrieval"

    def apply(self, host: Host) -> None:
        self.run.folder = store.publish(host.owner, self.run.opened(), self.run.part)


def _collect(
    username: str, folder: str, names: frozenset[str], run: Run, became: Mapping[str, Sequence[Captured]]
) -> CollectAssignment:
    found = became.get(username, ())
    earlier = [capture for capture in found if capture.state is CaptureState.SUPERSEDED]
    past = [capture for capture in found if capture.state not in (CaptureState.TO_COME, CaptureState.SUPERSEDED)]
    to_come = [capture for capture in found if capture.state is CaptureState.TO_COME]
    last = (past or earlier)[-1] if past or earlier else None
    is_again = bool(earlier and past)
    return CollectAssignment(username, folder, names, run, last, to_come[0] if to_come else None, is_again)


def _became(host: Host, names: frozenset[str], now: datetime) -> dict[str, list[Captured]]:
    """Every moment of these deadlines by student, the earliest first."""
    found: dict[str, list[Captured]] = {}
    for capture in captures(host, now):
        if capture.deadline in names:
            found.setdefault(capture.username, []).append(capture)
    return found


def summary(run: Run, host: Host, report: Report) -> str:
    """Where the work is, and what of it the graded course has, in words."""
    return "\n".join(filter(None, (retrieve.summary(run, host, report), submissions.summary(host, report))))


def rows(report: Report) -> list[tuple[str, str, str]]:
    """For the table: student, whether it was handed in or late, number of files."""
    found = []
    for student in report.students.values():
        if student.details.get("folder_missing"):
            words = "folder missing"
        elif student.details.get("handed_in") is None or (student.status == "failed" and not student.is_incomplete):
            words = "failed" if student.status == "failed" else "not set up"
        elif student.details["late"]:
            words = "late" if not student.details["handed_in"] else "handed in, and changed later"
        else:
            words = "handed in" if student.details["handed_in"] else "nothing handed in"
        words = "; ".join((words, *_about_capture(student.details), *submissions.words(student.details)))
        if student.is_incomplete and not student.details.get("folder_missing") and "INCOMPLETE" not in words:
            words += ", incomplete"
        found.append((student.username, words, str(student.details.get("files", 0))))
    return found


def _about_capture(details: Mapping[str, Any]) -> list[str]:
    """What the teacher must know about the capture, and which one was used if there are several."""
    capture = details.get("capture") or {}
    words = {
        CaptureState.FAILED.value: "NOT CAPTURED at the deadline",
        CaptureState.LATE.value: f"captured LATE, at {capture.get('captured')}",
        CaptureState.NOT_STORED.value: "captured, and NOT IN THE STORE YET",
        CaptureState.INCOMPLETE.value: "captured INCOMPLETE",
    }.get(capture.get("state", ""))
    why = f" ({capture['reason']})" if words and capture.get("reason") else ""
    found = [words + why] if words else []
    if capture.get("is_again"):
        found.append(f"captured again at {capture['captured']}: this is the newer one")
    if details.get("until") and capture:
        found.append(f"reopened until {details['until']}: this is what was captured before")
    return found


def _deadlines_of(host: Host, folder: str) -> frozenset[str]:
    """Names of all deadlines of this folder."""
    deadlines = folders.resolved(host, (*host.settings.deadlines, *host.course_ledger.deadlines()))
    return frozenset({folder, *(deadline.name for deadline in deadlines if deadline.folder == folder)})


def _captured(host: Host, username: str, deadlines: frozenset[str]) -> Capture | None:
    """The last capture in the store of one of these deadlines."""
    found = [
        capture
        for capture in host.course_ledger.captures()
        if capture.username == username and capture.name in deadlines and capture.retrieved
    ]
    return found[-1] if found else None


def _is_folder(exclusion: Exclusion, folder: str) -> bool:
    """Whether it means the whole folder, as collected now or as in the manifest of its deadline."""
    return exclusion.path in ("work", f"work/{folder}")


def _is_anywhere(host: Host, usernames: Sequence[str], folder: str, deadlines: frozenset[str]) -> bool:
    """Whether it was ever captured, or a student made a folder of that name; each home is read as its student."""
    if any(_captured(host, name, deadlines) for name in usernames):
        return True
    path = f"{host.settings.material.target}/{folder}"
    for name in usernames:
        try:
            if homes.has_folder(survey.student_account(host, name), path):
                return True
        except HostError as error:
            log.warning("%s: %s", name, error.problem)
    return False


def _hint(host: Host) -> str:
    known = sorted(path for path in folders.remembered(host).folders if "/" not in path)
    listed = f" The material has {', '.join(map(printable, known[:_MOST_NAMED]))}." if known else ""
    return f"Nothing was changed.{listed}"


def _stamp(time: datetime) -> str:
    """In nbgrader's format. Of a capture it is the moment itself: what it has in time had not changed after that, and a
    few milliseconds of freezing must not make the class late.
    """
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S.%f} UTC"
