"""retrieve --assignment: a folder of everybody's, what was there in time and what came later, laid out for grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from nblauncher import arranging, homes, store, survey, workers
from nblauncher.arranging import Assignment
from nblauncher.commands.pending import TROUBLE, Captured, CaptureState, captures
from nblauncher.commands.retrieve import AT_ONCE, LONGEST, OpenStaging, Run, checked_folder, notes, work_details
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.model import Exclusion
from nblauncher.plan import Details, Phase, Plan, Report
from nblauncher.scope import ALL, Scope

_LONGEST_ARRANGING = 600.0


def prepare(host: Host, usernames: Sequence[str], folder: str, *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware, in the host's zone. InputError when `folder` is no folder below the material."""
    folder = checked_folder(folder)
    facts = survey.survey(host, usernames)
    wanted = [name for name in usernames if name in facts.members]
    run = Run(now)
    became = _became(host, folder, now)
    if not wanted:
        return Plan((), notes(usernames, facts)), run
    phases = (
        Phase("open the retrieval", (OpenStaging(run),)),
        Phase("retrieve", tuple(_collect(name, folder, run, became) for name in wanted), parallel=AT_ONCE),
        Phase("publish", (PublishAssignment(run),)),
    )
    return Plan(phases, notes(usernames, facts)), run


@dataclass(frozen=True)
class CollectAssignment:
    """As the folder is now, and as it was at its deadline, where that was captured."""

    username: str
    folder: str
    run: Run
    became: Captured | None = None
    """What became of the student's moment, where it is past; else of the one before it was put off."""
    to_come: Captured | None = None
    is_again: bool = False
    """Whether an earlier capture is superseded by it."""

    @property
    def usernames(self) -> tuple[str, ...]:
        return (self.username,)

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
            {path.removeprefix(prefix): one for path, one in given.items() if path.startswith(prefix)},
        )
        collected = homes.collect(account, host.owner, staging, scope, host.settings.retrieve, longest=LONGEST)
        captured = _captured(host, self.username, self.folder)
        order = Assignment(
            staging.target,
            staging.name,
            self.username,
            self.folder,
            host.settings.retrieve.layout,
            _stamp(self.run.time),
            captured.retrieved if captured else "",
            _stamp(captured.captured) if captured else "",
        )
        try:
            about = workers.run_as(host.owner, arranging.arrange, order, timeout=_LONGEST_ARRANGING)
        except HostError:
            store.discard_student(host.owner, staging.target, staging.name, self.username)
            raise
        details = work_details(about["files"], about["bytes"], [*collected.work.exclusions, *self._trouble()])
        return {
            self.username: {
                **details,
                "handed_in": about["handed_in"],
                "late": about["late"],
                "capture": {**self.became.entry(), "is_again": self.is_again} if self.became else None,
                "until": self.to_come.entry()["at"] if self.to_come else None,
            }
        }

    def _trouble(self) -> list[Exclusion]:
        """A capture that failed or came late: the student's work is not what stood there at the moment."""
        if self.became is None or self.became.state not in TROUBLE:
            return []
        return [Exclusion(self.folder, self.became.words(), incomplete=True)]


@dataclass(frozen=True)
class PublishAssignment:
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "publish the retrieval"

    def apply(self, host: Host) -> None:
        self.run.folder = store.publish(host.owner, self.run.opened())


def _collect(username: str, folder: str, run: Run, became: Mapping[str, Sequence[Captured]]) -> CollectAssignment:
    found = became.get(username, ())
    earlier = [one for one in found if one.state is CaptureState.SUPERSEDED]
    past = [one for one in found if one.state not in (CaptureState.TO_COME, CaptureState.SUPERSEDED)]
    to_come = [one for one in found if one.state is CaptureState.TO_COME]
    last = (past or earlier)[-1] if past or earlier else None
    is_again = bool(earlier and past)
    return CollectAssignment(username, folder, run, last, to_come[0] if to_come else None, is_again)


def _became(host: Host, folder: str, now: datetime) -> dict[str, list[Captured]]:
    """By student, everything about the deadlines of this folder, by time."""
    found: dict[str, list[Captured]] = {}
    for one in captures(host, now):
        if one.deadline == folder:
            found.setdefault(one.username, []).append(one)
    return found


def rows(report: Report) -> list[tuple[str, str, str]]:
    """Student, handed in or not or late, files: for the table."""
    found = []
    for student in report.students.values():
        if student.status == "failed" or "handed_in" not in student.details:
            words = "failed" if student.status == "failed" else "not set up"
        elif student.details["late"]:
            words = "late" if not student.details["handed_in"] else "handed in, and changed later"
        else:
            words = "handed in" if student.details["handed_in"] else "nothing handed in"
        words = "; ".join((words, *_about_capture(student.details)))
        found.append((student.username, words, str(student.details.get("files", 0))))
    return found


def _about_capture(details: Mapping[str, Any]) -> list[str]:
    """What a teacher must know about the capture, and which one was taken where there are several."""
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


def _captured(host: Host, username: str, folder: str) -> Capture | None:
    """The last capture of this folder that is in the store."""
    found = [
        one
        for one in host.course_ledger.captures()
        if one.username == username and one.name == folder and one.retrieved
    ]
    return found[-1] if found else None


def _stamp(time: datetime) -> str:
    """As nbgrader writes it."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S.%f} UTC"
