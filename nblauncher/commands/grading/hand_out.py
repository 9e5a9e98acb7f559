"""send --assignment: the release of one assignment into every home, merged like all material.

It is generated first when its source is newer. That is a step before the locks: nbgrader takes its time, and what it
refuses ends the command before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timezone
from typing import Any

from nblauncher.commands import send
from nblauncher.commands.deadlines import folders
from nblauncher.config import assignments
from nblauncher.config.assignments import Known
from nblauncher.errors import InputError
from nblauncher.exchange.names import folders_above
from nblauncher.exchange.send import delivery, material
from nblauncher.grading import releases, teacher_tool
from nblauncher.grading.course_folder import CourseFolder
from nblauncher.model import Material
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan
from nblauncher.printable import printable
from nblauncher.system import workers

_LOOKING = 300.0
_GENERATING = 1800.0
_NAMED = 8
_NOTHING = "Nothing was sent."


@dataclass(frozen=True)
class Release:
    """nbgrader's code, run as the teacher."""

    assignment: str
    generates: bool
    due: str = ""
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        words = [f"generate release/{self.assignment} with nbgrader"] if self.generates else []
        words += [f"set nbgrader's due date of {self.assignment} to {self.due}"] if self.due else []
        return " and ".join(words)

    def apply(self, host: Host) -> None:
        host.tell(self.describe())
        course = host.settings.grading.course
        order = {"folder": str(course), "assignment": self.assignment, "generates": self.generates, "due": self.due}
        python = teacher_tool.python_of(host.paths.grading_environments)
        teacher_tool.ask(host.owner, python, "release", order, folder=course, timeout=_GENERATING)


def prepare(
    host: Host, usernames: Sequence[str], text: str, *, restores_deleted: bool = False, only_new: bool = False
) -> Plan:
    """Survey and plan. While the release is older than its source, what goes out is not known."""
    folder = _folder(text, host.settings.material)
    assignment = folder.replace("/", "-")
    teacher_tool.refuse_root(host.owner)
    found = _look(host, assignment)
    _refuse_two_sources(host, folder, assignment)
    due = _due(host, folder)
    is_nbgraders = not host.settings.grading.command  # else the release is what the teacher put there
    if not is_nbgraders and not found["has_release"]:
        raise InputError(
            f"there is no {CourseFolder(host.settings.grading.course).release(assignment)}",
            f"With grading.command it holds what students get; the tests are in source/{assignment}. {_NOTHING}",
        )
    changed_due = due if is_nbgraders and due != found["due"] else ""
    release = Release(assignment, is_nbgraders and found["is_stale"], changed_due)
    releasing: tuple[Phase, ...] = ()
    if release.generates or release.due:
        teacher_tool.python_of(host.paths.grading_environments)
        releasing = (Phase("release", (release,), is_preparation=True),)
    if release.generates:
        return Plan(releasing, ("what goes out to whom is known once the release was generated",))
    outgoing = _read(host, folder, assignment, restores_deleted=restores_deleted, only_new=only_new)
    planned = send.plan_for(host, usernames, survey.survey(host, usernames), outgoing)
    return Plan((*releasing, *planned.phases), planned.notes)


def _read(host: Host, folder: str, assignment: str, *, restores_deleted: bool, only_new: bool) -> send.Outgoing:
    course = CourseFolder(host.settings.grading.course)
    source = replace(host.settings.material, source=course.release(assignment), folder=folder)
    index = material.index(source, host.owner)
    if not index.items:
        raise InputError(f"{source.source} holds nothing that can be handed out", _NOTHING)
    known = material.recall(send.remembered_index(host))
    is_told = known is None or all(item.path != delivery.NEWS for item in known.items)
    parcel = send.Parcel(send.MATERIAL, source.target, index, source, tells_news=is_told)
    return send.Outgoing((parcel,), restores_deleted=restores_deleted, only_new=only_new, trusts=source.trust)


def _folder(text: str, place: Material) -> str:
    found = assignments.meaning(text, place, Known())
    if found.objection:
        raise InputError(f"--assignment: {printable(text[:60])}: {found.objection}", _NOTHING)
    return found.folder


def _look(host: Host, assignment: str) -> Mapping[str, Any]:
    """InputError when there is nothing of that name."""
    course = host.settings.grading.course
    found: Mapping[str, Any] = workers.run_as(host.owner, releases.look, str(course), assignment, timeout=_LOOKING)
    if not found["has_source"] and not found["has_release"]:
        there = [printable(str(name)) for name in found["others"]]
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        known = f"There: {', '.join(there[:_NAMED])}{more}. " if there else ""
        raise InputError(
            f"there is no assignment {printable(assignment)}: {course} has neither source/{printable(assignment)} nor "
            f"release/{printable(assignment)}",
            f"{known}{_NOTHING}",
        )
    return found


def _refuse_two_sources(host: Host, folder: str, assignment: str) -> None:
    """The material must not have the folder too: each `send` would replace what the other has handed out."""
    place, release = host.settings.material, CourseFolder(host.settings.grading.course).release(assignment)
    if place.source / folder == release:
        return  # the whole release folder is the material
    names = material.names(place, host.owner)
    for item in names.items:
        if folder in (item.path, *folders_above(item.path)) or item.path in folders_above(folder):
            raise InputError(
                f"{place.source} has {printable(item.path)} too, and students would get both in "
                f"{place.target}/{printable(folder)}",
                f"What is in release/{printable(assignment)} is handed out: move {printable(folder)} out of the "
                f"material (files for students can be in source/{printable(assignment)}). {_NOTHING}",
            )


def _due(host: Host, folder: str) -> str:
    """The last deadline of this folder, ISO 8601, UTC; '' for none."""
    moments = [one.at for one in folders.resolved(host, host.settings.deadlines) if one.folder == folder]
    return max(moments).astimezone(timezone.utc).isoformat(timespec="seconds") if moments else ""
