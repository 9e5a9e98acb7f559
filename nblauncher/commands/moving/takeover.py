"""import: a course that was exported on another host, set up here so far that `setup` and `launch` go on with it.

The teacher's child checks every file of the export before anything is changed, and copies what is the teacher's. Root
reads only small files of it, through such a child, and believes none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nblauncher.commands import inputs, setup
from nblauncher.commands.enrolment import RecordCourse
from nblauncher.commands.moving import export, records
from nblauncher.commands.moving.records import Records
from nblauncher.commands.session import Caller, Session, owner_of, refuse_conflicts
from nblauncher.config import roster as rosters
from nblauncher.config import settings as config
from nblauncher.config import times, trusted_files
from nblauncher.config.settings.editing import with_values
from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.exchange.moving import manifest, unpacking
from nblauncher.ledger import CourseRecord, imported, lockouts
from nblauncher.ledger.imported import Imported, Student
from nblauncher.model import Account, Roster
from nblauncher.planning import survey
from nblauncher.planning.host import Host, this_host
from nblauncher.planning.plan import Phase, Plan
from nblauncher.system import root_files, workers
from nblauncher.system.streams import frames_of

_STALL, _LONGEST = 120.0, 24 * 3600.0
_LARGEST_RECORDS = 256 << 20
_LARGEST_KEY = 1000


@dataclass(frozen=True)
class Checked:
    """An export whose every file is as its manifest says."""

    folder: Path
    course: str
    time: datetime
    sha256: str
    files: int
    bytes: int
    small: Mapping[str, str]
    """The sha256 of the files that are in no folder."""


@dataclass(frozen=True)
class Arrival:
    """What is imported: read, parsed and checked."""

    checked: Checked
    into: Path
    config: bytes
    records: Records
    hashes: Mapping[str, str]
    receipt_key: bytes = b""

    def imported(self, roster: Roster) -> Imported:
        """What `setup` takes over, of the students who are still in the roster."""
        offsets = {one.username: max(0, one.port - self.records.front_port) for one in self.records.people}
        students = {
            name: Student(self.hashes.get(name, ""), offsets.get(name, 0))
            for name in roster.usernames
            if name in self.hashes or offsets.get(name)
        }
        return Imported(self.checked.sha256, str(self.into / manifest.CONFIG), False, students)


def check(caller: Caller, folder: Path, tell: Callable[[int, int], None]) -> Checked:
    """Read and check all of it; `tell` gets how many files and bytes were read so far. Changes nothing.

    InputError or RefusedError for an export that is damaged, unsafe or newer.
    """
    for frame in frames_of(caller.person, unpacking.check, folder, stall=_STALL, longest=_LONGEST):
        header = frame.header
        if header["kind"] != "done":
            tell(int(header["files"]), int(header["bytes"]))
            continue
        return Checked(
            folder,
            str(header["course"]),
            datetime.fromisoformat(str(header["time"])),
            str(header["sha256"]),
            int(header["files"]),
            int(header["bytes"]),
            {str(name): str(sha256) for name, sha256 in header["small"].items()},
        )
    raise HostError("the export was not read to its end", "Run the command again.")


def open_arrival(caller: Caller, checked: Checked, into: Path, port: int | None) -> tuple[Arrival, Session]:
    """Parse it, with the config as it will be in `into`. InputError with every problem; changes nothing."""
    content = _read(caller.person, checked, manifest.CONFIG, trusted_files.MAX_BYTES)
    file = into / manifest.CONFIG
    if port is not None:
        content = with_values(content, {"web.port": str(port)})
    settings = config.parse(content, file, uid_min=inputs.uid_min())
    if settings.course != checked.course:
        raise InputError(f"the export is of course {checked.course}, and its config of {settings.course}", _DAMAGED)
    _refuse_places(settings, into)
    data = _read(caller.person, checked, manifest.ROSTER, trusted_files.MAX_BYTES)
    roster = rosters.parse(data, manifest.ROSTER)
    key = b""
    if manifest.RECEIPT_KEY in checked.small:
        key = _key(_read(caller.person, checked, manifest.RECEIPT_KEY, _LARGEST_KEY))
    arrival = Arrival(
        checked,
        into,
        content,
        records.from_json(_read(caller.person, checked, manifest.RECORDS, _LARGEST_RECORDS)),
        records.hashes_from_json(_read(caller.person, checked, manifest.HASHES, _LARGEST_RECORDS)),
        key,
    )
    if checked.folder == into or checked.folder in into.parents:
        raise InputError(f"{into} is inside the export", "Import into a folder outside of it. Nothing was changed.")
    owner = owner_of(caller, settings)
    refuse_conflicts(caller, settings, owner)
    contents = (("notebooks.cfg", content), ("students.csv", data))
    return arrival, Session(this_host(settings, owner), caller, roster, contents)


_DAMAGED = "It is damaged or not one of nblauncher's. Nothing was changed. Copy it again, or export again."


def _refuse_places(settings: config.Settings, into: Path) -> None:
    """An export's config names only what is beside it."""
    wrong = [key for key, name in export.places(settings).items() if export.value_of(settings, key) != into / name]
    if wrong:
        raise RefusedError(
            f"the config of the export names places outside of it: {', '.join(wrong)}",
            "`nblauncher export` does not write that. Nothing was changed.",
        )


def _read(person: Account, checked: Checked, name: str, most: int) -> bytes:
    data = trusted_files.read_as(person, checked.folder / name, most=most)
    if hashlib.sha256(data).hexdigest() != checked.small.get(name):
        raise InputError(f"{name} of the export changed since it was checked", "Run the command again.")
    return data


def _key(text: bytes) -> bytes:
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(f"{manifest.RECEIPT_KEY} of the export is not a key", _DAMAGED)
    return key


def prepare(host: Host, arrival: Arrival, session: Session) -> Plan:
    """Only what is missing. RefusedError or InputError when the course cannot be imported here."""
    known = imported.read(host.paths.imported)
    is_same = known is not None and known.export == arrival.checked.sha256
    record = host.ledger.course(host.settings.course)
    is_begun = is_same and known is not None and known.config == str(arrival.into / manifest.CONFIG)
    if record is not None and not is_begun:
        where = f" from this export, into {record.config}" if is_same else f", set up with {record.config}"
        raise RefusedError(
            f"course {host.settings.course} is on this host already{where}; nothing was changed",
            "Remove that one first (`nblauncher remove`), or import on another host.",
        )
    if known is not None and is_begun and known.is_done:
        return Plan()
    if record is None:
        _refuse_taken(host, session)
    if why := str(workers.run_as(host.owner, unpacking.objection, arrival.into, is_begun)):
        raise InputError(f"the course cannot be put there: {why}", "Name an empty folder. Nothing was changed.")
    roster = session.roster or Roster()
    settings = host.settings
    new = CourseRecord(
        settings.course,
        host.owner.username,
        host.owner.uid,
        str(arrival.into / manifest.CONFIG),
        settings.web.port,
        group_made=True,
    )
    return Plan(
        (
            Phase("the course", (BeginImport(arrival, roster), RecordCourse(new))),
            Phase("files", (PlaceFiles(arrival),)),
            Phase("records", (TakeRecords(arrival), FinishImport(roster.usernames))),
        ),
        _notes(host, arrival),
    )


def _refuse_taken(host: Host, session: Session) -> None:
    """Names and ports that others have here."""
    settings = host.settings
    roster = session.roster or Roster()
    facts = survey.survey(host, roster.usernames)
    if problems := setup.objections(roster, facts, settings):
        raise InputError(problems, "Nothing was changed. Rename those accounts, or the students on the old host.")
    port = settings.web.port
    users = {found: course for found, (course, _name) in host.ledger.ports().items()}
    users |= {record.front_port: record.course for record in host.ledger.courses()}
    if port in users or port in survey.listening_ports():
        who = f"course {users[port]} of this host" if port in users else "another program"
        raise RefusedError(
            f"the front page's port {port} is taken by {who}; nothing was changed",
            "Import with another: `--port 8200`.",
        )


def _notes(host: Host, arrival: Arrival) -> tuple[str, ...]:
    settings, time = host.settings, arrival.checked.time
    found = [
        f"not in the export, put it there before `setup`: {key} ({export.value_of(settings, key)})"
        for key in export.OF_ELSEWHERE
        if export.value_of(settings, key) is not None
    ]
    if settings.profile:
        found.append(f"not in the export: the IPython profile {settings.profile} of the teacher")
    if time.utcoffset() != time.astimezone().utcoffset():
        found.append(
            f"the old host had another time zone ({times.iso(time)} there): the deadlines of the config mean the time "
            "of this host"
        )
    return tuple(found)


@dataclass(frozen=True)
class BeginImport:
    """From here on the same command goes on, and no other export is taken for this course."""

    arrival: Arrival
    roster: Roster
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        count = len(self.roster)
        return f"take over {count} student{'' if count == 1 else 's'} with their passwords, ports and records"

    def apply(self, host: Host) -> None:
        begun, known = self.arrival.imported(self.roster), imported.read(host.paths.imported)
        if known is None or (known.export, known.config) != (begun.export, begun.config):
            imported.write(host.paths.imported, begun)


@dataclass(frozen=True)
class PlaceFiles:
    """The teacher's child copies; each file is compared with its checksum once more."""

    arrival: Arrival
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"put {self.arrival.checked.files} files into {self.arrival.into}"

    def apply(self, host: Host) -> None:
        checked = self.arrival.checked
        order = unpacking.Order(checked.folder, self.arrival.into, checked.sha256, self.arrival.config)
        for frame in frames_of(host.owner, unpacking.place, order, stall=_STALL, longest=_LONGEST):
            host.tell(f"put {frame.header['files']} files", int(frame.header["bytes"]), max(1, checked.bytes))


@dataclass(frozen=True)
class TakeRecords:
    """Deadlines, accommodations, captures, retrievals and the key of receipts: what root remembers."""

    arrival: Arrival
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "take over deadlines, extra time, captures, receipts and the history of retrievals"

    def apply(self, host: Host) -> None:
        host.course_ledger.take_in(self.arrival.records.brought)
        lockouts.update(host.paths.lockouts, self.arrival.records.lockouts)
        if self.arrival.receipt_key:
            root_files.replace(host.paths.receipt_key, self.arrival.receipt_key, durable=True)


@dataclass(frozen=True)
class FinishImport:
    usernames: tuple[str, ...]

    def describe(self) -> str:
        return "remember that the import is complete"

    def apply(self, host: Host) -> None:
        known = imported.read(host.paths.imported)
        if known is not None:
            imported.write(host.paths.imported, replace(known, is_done=True))


def details(usernames: Sequence[str], arrival: Arrival) -> dict[str, dict[str, Any]]:
    """Of each student, for the report."""
    return {name: {"keeps_password": name in arrival.hashes} for name in usernames}


def summary(host: Host, arrival: Arrival, plan: Plan) -> str:
    """What to do next."""
    if plan.is_empty:
        return ""
    return (
        f"Imported course {host.settings.course} into {arrival.into}\nNext, in that folder: look at web.names in "
        "notebooks.cfg, then `nblauncher check`, `setup` and `launch`."
    )
