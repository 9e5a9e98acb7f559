"""The folders that deadlines and `--assignment` name, compared with the material and with what was handed out.

Also finds extra time in the roster that cannot be given. Changes nothing. The teacher's child lists the teacher's
folder; during a capture it is not asked, because what root remembers is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from nblauncher.config import assignments, extra_time, roster
from nblauncher.config.assignments import Known, Meaning
from nblauncher.config.settings import Settings
from nblauncher.errors import HostError, InputError
from nblauncher.exchange.retrieve.scope import Sought
from nblauncher.exchange.send import material
from nblauncher.exchange.send.material import Index
from nblauncher.model import Deadline, Material, Student
from nblauncher.planning.host import Host
from nblauncher.printable import printable
from nblauncher.system import files

_MEND = "Correct it, then run `nblauncher setup`: the last accepted version counts. Nothing was changed."
HINT = "If it is another folder, make it in the material; it may be empty. Nothing was changed."


@dataclass(frozen=True)
class Judged:
    """Impossible folders, folders that do not exist yet, and extra time that cannot be given; a line each."""

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
    """All that was ever handed out, and the material as it was last read. Empty before the first `setup`."""
    index = material.recall(host.paths.state / "material.json")
    items = index.items if index else ()
    return assignments.known(host.course_ledger.handed_out_paths("material") | {item.path for item in items})


def known(host: Host, index: Index | None = None) -> Known:
    """As `remembered`, and what the material holds now. InputError when it cannot be read."""
    index = index or material.names(host.settings.material, host.owner)
    return assignments.known((item.path for item in index.items), index.exclusions) | remembered(host)


def resolved(host: Host, deadlines: Collection[Deadline]) -> tuple[Deadline, ...]:
    """The deadlines, with each folder spelled as in the material."""
    if not any(deadline.folder for deadline in deadlines):
        return tuple(deadlines)
    there = remembered(host)
    return tuple(replace(deadline, folder=_folder(deadline, host.settings.material, there)) for deadline in deadlines)


def judge(
    settings: Settings, students: Iterable[Student], there: Known | None, captured: Collection[str] = ()
) -> Judged:
    """Judge the config's deadlines, except those past and captured. `there` is None if the material was not read."""
    now = datetime.now(timezone.utc)
    wanted = [deadline for deadline in settings.deadlines if deadline.at > now or deadline.name not in captured]
    errors: list[str] = []
    warnings: list[str] = []
    first: dict[str, str] = {}
    for deadline in wanted if there is not None else ():
        meant = assignments.meaning(deadline.folder, settings.material, there or Known())
        if meant.objection:
            errors.append(f"deadline {printable(deadline.name)}: {meant.objection}")
        elif (other := first.setdefault(meant.folder, deadline.name)) != deadline.name:
            errors.append(f"deadlines {printable(other)} and {printable(deadline.name)} are for the same folder")
        elif not meant.is_there:
            warnings.append(absent(deadline.name, meant.folder))
    return Judged(tuple(errors), tuple(warnings), tuple(extra_time.without_starts(wanted, students)))


def require(host: Host, students: Iterable[Student], there: Known) -> tuple[str, ...]:
    """Before anything is changed: InputError with everything that can never work, else the notes."""
    judged = judge(host.settings, students, there, captured(host))
    if judged.errors:
        raise InputError(judged.errors, judged.hint)
    return judged.absent


def require_accepted(host: Host, *, is_attended: bool) -> tuple[str, ...]:
    """As `require`, for the accepted roster. An unattended start after a boot only gets notes, not an error."""
    try:
        students = accepted_students(host)
    except InputError as error:
        if is_attended:
            raise
        return error.problems
    unreadable = tuple(
        f"students.csv line {student.line}: {student.username}: {words}"
        for student in students
        if (words := extra_time.objection(student.extra_time))
    )
    if is_attended and unreadable and not host.settings.deadlines:
        raise InputError(unreadable, _MEND)
    if not host.settings.deadlines:
        return unreadable
    notes: tuple[str, ...] = ()
    try:
        there = known(host)
    except (InputError, HostError) as error:
        there, notes = remembered(host), (f"deadlines were compared only with what was handed out: {error.problem}",)
    judged = judge(host.settings, students, there, captured(host))
    if is_attended and (judged.errors or unreadable):
        raise InputError((*unreadable, *judged.errors), _MEND if unreadable else judged.hint)
    return (*unreadable, *judged.errors, *judged.absent, *notes)


def meant(host: Host, text: str, what: str) -> Meaning:
    """The folder named on the command line. InputError when it can never be an assignment's."""
    found = assignments.meaning(text, host.settings.material, known(host))
    if found.objection:
        raise InputError(f"{what}: {printable(text[:60])}: {found.objection}", "Nothing was changed.")
    return found


def absent(name: str, folder: str) -> str:
    shown = "" if name == folder else f" ({printable(folder)})"
    return (
        f"deadline {printable(name)}{shown}: this folder is not in the material yet; students without it at "
        "the deadline are captured as incomplete"
    )


def sought(host: Host, username: str, folder: str) -> Sought:
    """What the student's child recognises the folder by, if it was renamed."""
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
    """Names of deadlines with a capture in the store."""
    return frozenset(capture.name for capture in host.course_ledger.captures() if capture.retrieved)


def accepted_students(host: Host) -> tuple[Student, ...]:
    """The accepted rows. A cell that only an earlier release accepted does not cost the others their extra time."""
    try:
        data = (host.paths.accepted / "students.csv").read_bytes()
    except (FileNotFoundError, PermissionError):
        return ()
    return tuple(roster.parse(data, "students.csv", judges_extra_time=False))


def _folder(deadline: Deadline, material: Material, there: Known) -> str:
    if not deadline.folder:
        return ""
    return assignments.meaning(deadline.folder, material, there).folder or deadline.folder
