"""grade init: the environment that grades, the teacher's course folder, and the roster in its gradebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nblauncher.commands import packages
from nblauncher.commands.packages import Environment
from nblauncher.commands.session import Session, trusted_uids
from nblauncher.config import requirements
from nblauncher.config.requirements import Requirements
from nblauncher.config.trusted_files import read_trusted
from nblauncher.errors import InputError, RefusedError
from nblauncher.grading import gradebook_names, teacher_tool
from nblauncher.model import Roster
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, Phase, Plan, Report

_LONGEST = 300.0
_NAMED = 8


@dataclass
class Run:
    """What became of the course's folder; known once the step is done, or when nothing was to do."""

    found: Mapping[str, Any] = field(default_factory=dict)
    has_built: bool = False


def prepare(host: Host, session: Session, run: Run) -> Plan:
    """Survey and plan. Without an environment the folder cannot be looked at, and is planned as a whole."""
    teacher_tool.refuse_root(host.owner)
    if session.caller.is_root and host.ledger.course(host.settings.course) is None:
        raise RefusedError(f"course {host.settings.course} is not set up yet", "Run `nblauncher setup` first.")
    making = MakeCourse(session.roster or Roster(), run)
    building = packages.phases_of(environment(host), wanted(session))
    if building:
        run.has_built = True
        return Plan((*building, Phase("the course's folder", (making,))))
    found = run.found = _ask(host, making.roster, changes_nothing=True)
    is_needed = bool(found["made"] or found["added"] or found["changed"])
    return Plan((Phase("the course's folder", (making,)),) if is_needed else (), _notes(host, found))


def environment(host: Host) -> Environment:
    modules = ("nbgrader.apps.api",)
    return Environment(host.paths.grading_environments, modules, "the packages that grade", "from now on")


def wanted(session: Session) -> Requirements:
    """InputError for lines that are not requirements."""
    given = session.settings.grading.requirements
    if isinstance(given, Path):
        config = session.settings.file or given
        return requirements.parse(read_trusted(given, allowed_uids=trusted_uids(session.caller, config)), given.name)
    return Requirements(given)


@dataclass(frozen=True)
class MakeCourse:
    """The teacher's child makes what is missing; nothing that is there is overwritten."""

    roster: Roster
    run: Run
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "make what is missing in the graded course's folder, and bring the roster into its gradebook"

    def apply(self, host: Host) -> Mapping[str, Details]:
        found = self.run.found = _ask(host, self.roster, changes_nothing=False)
        imported = {**found["added"], **found["changed"]}
        return {name: {"imported": imported[name]} for name in self.roster.usernames if name in imported}


def _ask(host: Host, roster: Roster, *, changes_nothing: bool) -> Mapping[str, Any]:
    order = {
        "folder": str(host.settings.grading.course),
        "course_id": host.settings.course,
        "students": [gradebook_names.row_of(student) for student in roster],
        "changes_nothing": changes_nothing,
    }
    python = teacher_tool.python_of(host.paths.grading_environments)
    answer: Mapping[str, Any] = teacher_tool.ask(
        host.owner, python, "course_setup", order, folder=Path("/"), timeout=_LONGEST
    )
    if not answer["has_nbgrader"] and not host.settings.grading.command:
        raise InputError(
            "grading.requirements does not install nbgrader, and there is no grading.command to grade without it",
            "Add nbgrader to the requirements, then run `nblauncher grade init` again.",
        )
    return answer


def summary(run: Run, host: Host, report: Report) -> str:
    """What was changed, in words; '' for nothing."""
    found = run.found
    if not found or report.was_interrupted:
        return ""
    lines = ["The packages that grade were installed."] if run.has_built else []
    if found["made"]:
        lines.append(_made(host, found["made"]))
    if found["added"]:
        many = len(found["added"])
        lines.append(f"Imported {many} student{'' if many == 1 else 's'} into the gradebook.")
    if found["changed"]:
        said = [f"{name} ({', '.join(_words(fields))})" for name, fields in found["changed"].items()]
        lines.append(f"Changed in the gradebook: {_listed(said)}.")
    if not lines:
        return ""
    if run.has_built:
        lines += _notes(host, found)
    return "\n".join(lines)


def _made(host: Host, names: Sequence[str]) -> str:
    *some, last = filter(None, names)
    inside = f"{', '.join(some)} and {last}" if some else last
    course = host.settings.grading.course
    return f"Made {course} with {inside}." if "" in names else f"Made {inside} in {course}."


def _notes(host: Host, found: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if found["left"]:
        notes.append(f"in the gradebook and not in the roster: {_listed(found['left'])}; they and their grades stay")
    if found["is_open"]:
        course = host.settings.grading.course
        notes.append(f"every account of this host can read {course}, where the solutions are; `chmod o-rwx` it")
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _words(fields: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in fields]
