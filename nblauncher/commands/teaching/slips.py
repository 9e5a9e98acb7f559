"""slips: a card for each student, in a file of the teacher's. Root says who sits where; it never sees a password."""

from __future__ import annotations

import pwd
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.auth import hashes
from nblauncher.commands import wording
from nblauncher.commands.deadlines import pending
from nblauncher.commands.running import classroom
from nblauncher.config.settings import Settings
from nblauncher.errors import HostError, InputError
from nblauncher.frontends import class_ca
from nblauncher.model import Account, Roster, Student
from nblauncher.planning.host import Host
from nblauncher.planning.locks import holding
from nblauncher.planning.plan import Report
from nblauncher.slips import pdf, slip, teacher_side
from nblauncher.slips.slip import Course, Slip
from nblauncher.slips.teacher_side import HTML, PDF, Order
from nblauncher.system import workers

UNKNOWN = "the notebook password is not known any more; `nblauncher passwd NAME` gives a new one"
NOT_SET_UP = "not set up yet"
PDF_HINT = pdf.HINT

_MOST_DEADLINES = 3


@dataclass(frozen=True)
class Wanted:
    """A file of slips."""

    file: Path
    form: str
    order: str | None = None
    """None: by section if the roster has sections, else by name."""
    paper: str = "a4"


def usual_file(settings: Settings, only: Collection[str] = ()) -> Wanted:
    """Beside the credentials: a PDF where one can be made, else HTML. Those of `only` do not replace the class's."""
    form = PDF if pdf.is_installed() else HTML
    part = f"-only-{next(iter(only)) if len(only) == 1 else f'{len(only)}-students'}" if only else ""
    return Wanted(settings.credentials.with_name(f"slips{part}.{form}"), form)


def write(host: Host, students: Roster, wanted: Wanted) -> tuple[Report, Sequence[str]]:
    """Write the slips of `students` as the teacher. The report, and notes for the teacher.

    A student without a known password gets a slip that says so, and fails in the report.
    """
    refuse_inputs(host, wanted.file)
    report = Report.of(students.usernames)
    ready = set_up(host, students)
    for name in students.usernames:
        if name not in ready.usernames:
            report.fail(name, NOT_SET_UP)
    if not len(ready):
        return report, ()
    slips = made(host, ready)
    order = Order(wanted.file, wanted.form, wanted.order or slip.usual_order(slips), wanted.paper, handed_out(host))
    said = workers.run_as(
        host.owner,
        teacher_side.write,
        order,
        course_of(host),
        slips,
        host.settings.credentials,
        hashes.read(host.paths.hashes),
        unprivileged(host.owner),
        timeout=pdf.longest(len(slips)) + 60,
    )
    unknown, without_font = (frozenset(map(str, said[key])) for key in ("unknown", "without_font"))
    for name in ready.usernames:
        report.add(name, {"has_password": name not in unknown})
        if name in unknown:
            report.fail(name, UNKNOWN)
    return report, _notes(sorted(without_font))


def made(host: Host, students: Roster, now: datetime | None = None) -> list[Slip]:
    """The slips of students who are set up, without passwords."""
    now = now or datetime.now(timezone.utc)
    to_come: dict[str, list[tuple[str, datetime]]] = {}
    for moment in pending.all_moments(host)[0]:
        if moment.at > now:
            to_come.setdefault(moment.username, []).append((moment.deadline.folder, moment.at))
    return [_slip(host, student, to_come.get(student.username, []), now) for student in students]


def course_of(host: Host) -> Course:
    """With the fingerprint of the class CA, which is made if there is none yet."""
    fingerprint = ""
    if host.settings.tls.mode == "class-ca":
        where = host.paths.tls, host.frontend.names, host.frontend.addresses
        if class_ca.current_class_ca(*where) is None:
            with holding(host) as locked:
                classroom.issuer(locked)
        authority = class_ca.current_class_ca(*where)
        fingerprint = authority.fingerprint if authority else ""
    settings = host.settings
    texts = wording.appearance(settings).words
    return Course(settings.course, host.frontend.front_page, fingerprint, settings.web.title, texts)


def set_up(host: Host, students: Roster) -> Roster:
    """Those who have a notebook password."""
    members = host.ledger.members(host.settings.course)
    hashed = hashes.read(host.paths.hashes)
    return students.only(name for name in students.usernames if name in members and name in hashed)


def unprivileged(owner: Account) -> Account:
    """The account that handles what the roster's cells are made into: the teacher, or nblauncher if that is root."""
    if owner.uid != 0:
        return owner
    try:
        entry = pwd.getpwnam(SYSTEM_ACCOUNTS[0])
    except KeyError:
        raise HostError(f"there is no account {SYSTEM_ACCOUNTS[0]}", "Run install.sh again, which makes it.") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def refuse_inputs(host: Host, file: Path) -> None:
    """The file that is written must not be one of the course's own."""
    settings = host.settings
    own = {settings.file: "the config", settings.students: "the roster", settings.credentials: "the credentials file"}
    if words := own.get(file):
        raise InputError(f"{file} is {words}; nothing was written", "Name another file.")


def handed_out(host: Host) -> tuple[Path, ...]:
    """Folders of which something is sent to every student."""
    settings = host.settings
    profile = (host.owner.home / ".ipython" / f"profile_{settings.profile}",) if settings.profile else ()
    return settings.material.source, settings.grading.course, *profile


def _slip(host: Host, student: Student, to_come: Collection[tuple[str, datetime]], now: datetime) -> Slip:
    look = wording.appearance(host.settings)
    soonest = sorted(to_come, key=lambda one: one[1])[:_MOST_DEADLINES]
    return Slip(
        username=student.username,
        name=student.name,
        url=host.frontend.front_page_for(student.username),
        email=student.email,
        section=student.section,
        seat=student.seat,
        deadlines=tuple((slip.on_paper(folder), look.words.moment(at, now, look.time_zone)) for folder, at in soonest),
        later=len(to_come) - len(soonest),
    )


def _notes(without_font: Sequence[str]) -> Sequence[str]:
    if not without_font:
        return ()
    more = f" and {len(without_font) - 10} more" if len(without_font) > 10 else ""
    names = ", ".join(without_font[:10]) + more
    return (
        f"no font of this host has all characters of the names of {names}, so the PDF has boxes for them; {pdf.FONTS}",
    )
