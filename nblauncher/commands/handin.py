"""retrieve --assignment: a folder of everybody's, what was there in time and what came later, laid out for grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from nblauncher import arranging, homes, store, survey, workers
from nblauncher.arranging import Assignment
from nblauncher.commands.retrieve import AT_ONCE, LONGEST, OpenStaging, Run, checked_folder, notes, work_details
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.plan import Details, Phase, Plan, Report
from nblauncher.scope import ALL, Scope

_LONGEST_ARRANGING = 600.0


def prepare(host: Host, usernames: Sequence[str], folder: str, *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware, in the host's zone. InputError when `folder` is no folder below the material."""
    folder = checked_folder(folder)
    facts = survey.survey(host, usernames)
    wanted = [name for name in usernames if name in facts.members]
    run = Run(now)
    if not wanted:
        return Plan((), notes(usernames, facts)), run
    phases = (
        Phase("open the retrieval", (OpenStaging(run),)),
        Phase("retrieve", tuple(CollectAssignment(name, folder, run) for name in wanted), parallel=AT_ONCE),
        Phase("publish", (PublishAssignment(run),)),
    )
    return Plan(phases, notes(usernames, facts)), run


@dataclass(frozen=True)
class CollectAssignment:
    """As the folder is now, and as it was at its deadline, where that was captured."""

    username: str
    folder: str
    run: Run

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
        details = work_details(about["files"], about["bytes"], collected.work.exclusions)
        return {self.username: {**details, "handed_in": about["handed_in"], "late": about["late"]}}


@dataclass(frozen=True)
class PublishAssignment:
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "publish the retrieval"

    def apply(self, host: Host) -> None:
        self.run.folder = store.publish(host.owner, self.run.opened())


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
        found.append((student.username, words, str(student.details.get("files", 0))))
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
