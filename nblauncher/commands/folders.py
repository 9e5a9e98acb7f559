"""What deadlines and `--assignment` name, held against the material and against what was handed out.

Also who cannot have the extra time that the roster says. Looks only; the teacher's folder is listed by the teacher's
child, and at the moment itself nobody asks it: what root remembers is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from nblauncher import accommodations, assignments, files, material, roster
from nblauncher.assignments import Known, Meaning
from nblauncher.errors import HostError, InputError
from nblauncher.host import Host
from nblauncher.material import Index
from nblauncher.model import Deadline, Material, Student
from nblauncher.printable import printable
from nblauncher.scope import Sought
from nblauncher.settings import Settings

_MEND = "Correct it, then run `nblauncher setup`: what was accepted last is what counts. Nothing was changed."
HINT = "If it is another folder, make it in the material; it may be empty. Nothing was changed."


@dataclass(frozen=True)
class Judged:
    """Folders that can never be one, folders that are not there yet, and time that cannot be given; a line each."""

    wrong: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    without_time: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        return (*self.without_time, *self.wrong)

    @property
    def hint(self) -> str:
        return HINT if self.wrong else "Nothing was changed."


def remembered(host: Host) -> Known:
    """What was handed out, to anybody, and the material as it was read last. Empty before the first `setup`."""
    index = material.recall(host.paths.state / "material.json")
    items = index.items if index else ()
    return assignments.known(host.course_ledger.handed_out_paths("material") | {item.path for item in items})


def known(host: Host, index: Index | None = None) -> Known:
    """As `remembered`, and what the material holds now. InputError when it cannot be looked at."""
    index = index or material.names(host.settings.material, host.owner)
    return assignments.known((item.path for item in index.items), index.exclusions) | remembered(host)


def resolved(host: Host, deadlines: Collection[Deadline]) -> tuple[Deadline, ...]:
    """With each folder as the material spells it."""
    if not any(one.folder for one in deadlines):
        return tuple(deadlines)
    there = remembered(host)
    return tuple(replace(one, folder=_folder(one, host.settings.material, there)) for one in deadlines)


def judge(
    settings: Settings, students: Iterable[Student], there: Known | None, captured: Collection[str] = ()
) -> Judged:
    """Of the config's deadlines; those that are past and in the store are over. `there`: None where nobody looked."""
    now = datetime.now(timezone.utc)
    wanted = [one for one in settings.deadlines if one.at > now or one.name not in captured]
    errors: list[str] = []
    warnings: list[str] = []
    first: dict[str, str] = {}
    for one in wanted if there is not None else ():
        meant = assignments.meaning(one.folder, settings.material, there or Known())
        if meant.objection:
            errors.append(f"deadline {printable(one.name)}: {meant.objection}")
        elif (other := first.setdefault(meant.folder, one.name)) != one.name:
            errors.append(f"deadlines {printable(other)} and {printable(one.name)} are for the same folder")
        elif not meant.is_there:
            warnings.append(absent(one.name, meant.folder))
    return Judged(tuple(errors), tuple(warnings), tuple(accommodations.without_starts(wanted, students)))


def require(host: Host, students: Iterable[Student], there: Known) -> tuple[str, ...]:
    """Before something is changed: InputError with everything that can never work; what is to be said otherwise."""
    judged = judge(host.settings, students, there, captured(host))
    if judged.errors:
        raise InputError(judged.errors, judged.hint)
    return judged.absent


def require_accepted(host: Host, *, is_attended: bool) -> tuple[str, ...]:
    """As `require`, of the roster that was accepted last. Nobody who boots a host is kept from a class by it."""
    try:
        students = accepted_students(host)
    except InputError as error:
        if is_attended:
            raise
        return error.problems
    unreadable = tuple(
        f"students.csv line {one.line}: {one.username}: {words}"
        for one in students
        if (words := accommodations.objection(one.extra_time))
    )
    if is_attended and unreadable and not host.settings.deadlines:
        raise InputError(unreadable, _MEND)
    if not host.settings.deadlines:
        return unreadable
    notes: tuple[str, ...] = ()
    try:
        there = known(host)
    except (InputError, HostError) as error:
        there, notes = remembered(host), (f"deadlines were held against what was handed out only: {error.problem}",)
    judged = judge(host.settings, students, there, captured(host))
    if is_attended and (judged.errors or unreadable):
        raise InputError((*unreadable, *judged.errors), _MEND if unreadable else judged.hint)
    return (*unreadable, *judged.errors, *judged.absent, *notes)


def meant(host: Host, text: str, what: str) -> Meaning:
    """The folder that somebody named on the command line. InputError when it can never be one."""
    found = assignments.meaning(text, host.settings.material, known(host))
    if found.objection:
        raise InputError(f"{what}: {printable(text[:60])}: {found.objection}", "Nothing was changed.")
    return found


def absent(name: str, folder: str) -> str:
    shown = "" if name == folder else f" ({printable(folder)})"
    return (
        f"deadline {printable(name)}{shown}: this folder is not in the material yet; who does not have it at the "
        "moment is captured as incomplete"
    )


def sought(host: Host, username: str, folder: str) -> Sought:
    """By what the student's child finds the folder again."""
    target = host.settings.material.target
    prefix = f"{folder}/" if folder else ""
    given = host.course_ledger.handed_out(username, "material")
    mine = {path.removeprefix(prefix): one for path, one in given.items() if path.startswith(prefix)}
    others = {path: one for path, one in given.items() if not path.startswith(prefix)}
    places = {path.rpartition("/")[0] for path in others}
    return Sought(
        mine,
        frozenset(files.join(target, path).rstrip("/") for path in places),
        frozenset(one.inode for one in others.values() if one.inode),
    )


def captured(host: Host) -> frozenset[str]:
    """Names of deadlines of which something is in the store."""
    return frozenset(one.name for one in host.course_ledger.captures() if one.retrieved)


def accepted_students(host: Host) -> tuple[Student, ...]:
    """The rows that were accepted last. A cell that an earlier release took does not cost the others their time."""
    try:
        data = (host.paths.accepted / "students.csv").read_bytes()
    except (FileNotFoundError, PermissionError):
        return ()
    return tuple(roster.parse(data, "students.csv", judges_extra_time=False))


def _folder(deadline: Deadline, material: Material, there: Known) -> str:
    if not deadline.folder:
        return ""
    return assignments.meaning(deadline.folder, material, there).folder or deadline.folder
