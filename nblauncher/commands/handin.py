"""retrieve --assignment: a folder of everybody's, what was there in time and what came later, laid out for grading."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from nblauncher import arranging, homes, store, survey, workers
from nblauncher.arranging import Assignment
from nblauncher.commands import folders
from nblauncher.commands.retrieve import AT_ONCE, LONGEST, OpenStaging, Run, notes, work_details
from nblauncher.errors import HostError, InputError
from nblauncher.host import Host
from nblauncher.ledger import Capture
from nblauncher.model import Exclusion
from nblauncher.plan import Details, Phase, Plan, Report
from nblauncher.printable import printable
from nblauncher.scope import ALL, Scope

log = logging.getLogger(__name__)

_LONGEST_ARRANGING = 600.0
_MOST_NAMED = 20


def prepare(host: Host, usernames: Sequence[str], folder: str, *, now: datetime) -> tuple[Plan, Run]:
    """Survey and plan. `now` is aware, in the host's zone.

    InputError when `folder` is no folder of the material, and nobody made one of that name either.
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
    run = Run(now)
    if not wanted:
        return Plan((), notes(usernames, facts)), run
    phases = (
        Phase("open the retrieval", (OpenStaging(run),)),
        Phase("retrieve", tuple(CollectAssignment(name, folder, names, run) for name in wanted), parallel=AT_ONCE),
        Phase("publish", (PublishAssignment(run),)),
    )
    return Plan(phases, notes(usernames, facts)), run


@dataclass(frozen=True)
class CollectAssignment:
    """As the folder is now, and as it was at its deadline, where that was captured."""

    username: str
    folder: str
    deadlines: frozenset[str]
    """Names of the deadlines of this folder."""
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
            sought=folders.sought(host, self.username, self.folder),
        )
        collected = homes.collect(account, host.owner, staging, scope, host.settings.retrieve, longest=LONGEST)
        captured = _captured(host, self.username, self.deadlines)
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
        then = [Exclusion(*row) for row in about["left_out"]]
        now = collected.work.exclusions
        # What was captured is what counts: that the folder went away afterwards is told, and is nobody's failure.
        now = tuple(replace(one, incomplete=False) if captured and one.path == "work" else one for one in now)
        details = work_details(about["files"], about["bytes"], (*then, *now))
        is_missing = not about["files"] and any(
            one.incomplete and _is_folder(one, self.folder) for one in (*then, *now)
        )
        more = {"handed_in": about["handed_in"], "late": about["late"], "folder_missing": is_missing}
        return {self.username: {**details, **more}}


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
        if student.details.get("folder_missing"):
            words = "folder missing"
        elif "handed_in" not in student.details or (student.status == "failed" and not student.is_incomplete):
            words = "failed" if student.status == "failed" else "not set up"
        elif student.details["late"]:
            words = "late" if not student.details["handed_in"] else "handed in, and changed later"
        else:
            words = "handed in" if student.details["handed_in"] else "nothing handed in"
        if student.is_incomplete and not student.details.get("folder_missing"):
            words += ", incomplete"
        found.append((student.username, words, str(student.details.get("files", 0))))
    return found


def _deadlines_of(host: Host, folder: str) -> frozenset[str]:
    """By whatever name."""
    deadlines = folders.resolved(host, (*host.settings.deadlines, *host.course_ledger.deadlines()))
    return frozenset({folder, *(one.name for one in deadlines if one.folder == folder)})


def _captured(host: Host, username: str, deadlines: frozenset[str]) -> Capture | None:
    """The last capture of one of these deadlines that is in the store."""
    found = [
        one
        for one in host.course_ledger.captures()
        if one.username == username and one.name in deadlines and one.retrieved
    ]
    return found[-1] if found else None


def _is_folder(one: Exclusion, folder: str) -> bool:
    """Whether it is about the whole folder: as collected now, or as in the manifest of its deadline."""
    return one.path in ("work", f"work/{folder}")


def _is_anywhere(host: Host, usernames: Sequence[str], folder: str, deadlines: frozenset[str]) -> bool:
    """Whether it was captured once, or a student made a folder of that name; each is asked as that student."""
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
    """As nbgrader writes it."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S.%f} UTC"
