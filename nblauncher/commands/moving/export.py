"""export: the whole course in a folder that `import` on another host, or another system, takes over.

The teacher's child copies what is the teacher's. Root gives it what only root knows, through a child of its own, so
that no hash is in the memory of a process that forks for a student. Nothing of the course is changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nblauncher import __version__
from nblauncher.auth import hashes
from nblauncher.commands import packages, wording
from nblauncher.commands.deadlines import pending
from nblauncher.commands.deadlines.pending import CaptureState
from nblauncher.commands.moving import records
from nblauncher.commands.moving.records import Person, Records
from nblauncher.commands.session import Session, trusted_uids
from nblauncher.config.settings import Settings
from nblauncher.config.settings.editing import with_values
from nblauncher.config.trusted_files import read_trusted
from nblauncher.errors import HostError, InputError, RefusedError
from nblauncher.exchange.moving import manifest, teacher_side
from nblauncher.exchange.moving.teacher_side import Order
from nblauncher.exchange.retrieve.scope import ALL, CHANGED, HOME
from nblauncher.ledger import Brought, lockouts
from nblauncher.model import ROOT
from nblauncher.planning.host import Host
from nblauncher.planning.locks import holding
from nblauncher.system import workers
from nblauncher.system.streams import Voice, frames_of

_STALL, _LONGEST = 120.0, 24 * 3600.0
OF_ELSEWHERE = ("tls.certificate", "tls.key", "mail.login", "mail.authority", "notebook.kernel_python")
"""Keys that name files which the export leaves where they are: keys, logins, and what belongs to the host."""


@dataclass(frozen=True)
class Written:
    """What an export holds."""

    files: int
    bytes: int
    left_out: tuple[tuple[str, str], ...] = ()
    """Path and reason."""
    more: int = 0
    """How many more were left out."""


def places(settings: Settings) -> dict[str, str]:
    """What the config of an export says instead: everything that the export has is beside it."""
    named = {
        "students": manifest.ROSTER,
        "credentials": manifest.CREDENTIALS,
        "material.source": manifest.MATERIAL,
        "retrieve.target": manifest.RETRIEVED,
        "grading.course": manifest.GRADING,
    }
    if isinstance(settings.notebook.requirements, Path):
        named["notebook.requirements"] = manifest.REQUIREMENTS
    if isinstance(settings.grading.requirements, Path):
        named["grading.requirements"] = manifest.GRADING_REQUIREMENTS
    if settings.web.texts is not None:
        named["web.texts"] = manifest.TEXTS
    return named


def value_of(settings: Settings, key: str) -> Any:
    """The value of a dotted key that names a file or folder."""
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def portable(session: Session, config: bytes) -> bytes:
    """The config with the paths of `places`, without the owner, and otherwise as it is."""
    settings = session.settings
    folder = (settings.file or Path("/notebooks.cfg")).parent
    values = {key: name for key, name in places(settings).items() if value_of(settings, key) != folder / name}
    if settings.owner:
        values["owner"] = '""'
    return with_values(config, values) if values else config


def refuse(session: Session, folder: Path) -> None:
    """RefusedError or InputError when nothing can be exported there. Changes nothing."""
    host = session.host
    if host.ledger.course(session.settings.course) is None:
        raise RefusedError(
            f"course {session.settings.course} is not set up on this host, so there is nothing to export",
            "A course that was never set up is its folder: copy that.",
        )
    real = Path(os.path.realpath(folder))
    for name, claim in host.ledger.claims().items():
        home = Path(os.path.realpath(claim.account.home))
        if not claim.is_guest and (real == home or home in real.parents):
            raise InputError(f"{folder} is inside the home of the student {name}", "Name another folder.")
    if why := str(workers.run_as(host.owner, teacher_side.objection, folder, _sources(session.settings))):
        raise InputError(f"nothing can be exported there: {why}", "Name a new folder that the teacher can make.")


def notes(host: Host) -> list[str]:
    """What the teacher must know about things that are not in the export."""
    settings = host.settings
    found = [
        f"not in the export, because it is a secret or belongs to this host: {key} ({value_of(settings, key)})"
        for key in OF_ELSEWHERE
        if value_of(settings, key) is not None
    ]
    if settings.profile:
        found.append(
            f"not in the export: the IPython profile {settings.profile} of {host.owner.username} "
            f"(~/.ipython/profile_{settings.profile}); copy it to the teacher's home on the next host"
        )
    now = datetime.now().astimezone()
    waiting = [one for one in pending.captures(host, now) if one.state is CaptureState.NOT_STORED]
    if waiting:
        names = sorted({one.username for one in waiting})
        found.append(
            f"captured at a deadline, and not in {settings.retrieve.target} yet, so not in the export: the work of "
            f"{', '.join(names[:10])}{' and more' if names[10:] else ''}; `nblauncher retrieve` says why"
        )
    return found


def described(session: Session, folder: Path, *, with_passwords: bool) -> str:
    count = len(session.host.ledger.members(session.settings.course))
    passwords = "hashes and the plain passwords" if with_passwords else "hashes, without the plain passwords"
    return (
        f"export course {session.settings.course} as {session.host.owner.username} to {folder}: config, roster, "
        f"material, retrieved work, grades, records of {count} student{'' if count == 1 else 's'}, password {passwords}"
    )


def write(session: Session, folder: Path, tell: Callable[[int, int], None], *, with_passwords: bool) -> Written:
    """Write it; `tell` gets how many files and bytes there are so far.

    HostError when the disk is full or something cannot be read. Interrupted or failed, it leaves nothing.
    """
    host = session.host
    about = manifest.head(
        session.settings.course, f"nblauncher {__version__}", datetime.now().astimezone().isoformat("T", "seconds"), ""
    )
    credentials = session.settings.credentials if with_passwords else None
    order = Order(folder, about, _sources(session.settings), credentials)
    contents = _of_teacher(session)
    with holding(host, host.paths.state / "export.lock"):
        try:
            for frame in frames_of(ROOT, _in_child, host, order, contents, stall=_STALL, longest=_LONGEST):
                header = frame.header
                if header["kind"] == "done":
                    return _written(header)
                tell(int(header["files"]), int(header["bytes"]))
        except BaseException:
            workers.run_as(host.owner, teacher_side.clean, folder)
            raise
    raise HostError("the export did not come to its end", "Run the command again.")


def _in_child(output: int, host: Host, order: Order, contents: Mapping[str, bytes]) -> None:
    """Runs as root, in a process that does nothing else."""
    voice = Voice(output)
    own = {**contents, **_of_root(host)}
    frames = frames_of(host.owner, teacher_side.write, order, own, stall=_STALL, longest=_LONGEST)
    for frame in frames:
        voice.send(dict(frame.header))


def _written(header: Mapping[str, Any]) -> Written:
    left_out = tuple((str(one["path"]), str(one["reason"])) for one in header["left_out"])
    return Written(int(header["files"]), int(header["bytes"]), left_out, int(header["more"]))


def _sources(settings: Settings) -> Mapping[str, Path]:
    return {
        manifest.MATERIAL: settings.material.source,
        manifest.RETRIEVED: settings.retrieve.target,
        manifest.GRADING: settings.grading.course,
    }


def _of_teacher(session: Session) -> dict[str, bytes]:
    """The inputs as they were read, by the rules for inputs."""
    given = dict(session.contents)
    contents = {
        manifest.CONFIG: portable(session, given["notebooks.cfg"]),
        manifest.ROSTER: given["students.csv"],
    }
    for name, content in ((manifest.REQUIREMENTS, packages.CONTENT), (manifest.TEXTS, wording.CONTENT)):
        if content in given:
            contents[name] = given[content]
    grading = session.settings.grading.requirements
    if isinstance(grading, Path):
        trusted = trusted_uids(session.caller, session.settings.file or grading)
        contents[manifest.GRADING_REQUIREMENTS] = read_trusted(grading, allowed_uids=trusted)
    return contents


def _of_root(host: Host) -> dict[str, bytes]:
    """What only root knows."""
    members = host.ledger.members(host.settings.course)
    known = {name: text for name, text in hashes.read(host.paths.hashes).items() if name in members}
    contents = {
        manifest.RECORDS: records.to_json(remembered(host)),
        manifest.HASHES: records.hashes_to_json(known),
    }
    with contextlib.suppress(FileNotFoundError):  # no receipt was given yet
        contents[manifest.RECEIPT_KEY] = host.paths.receipt_key.read_bytes().hex().encode("ascii")
    return contents


def remembered(host: Host) -> Records:
    """What the ledgers know of the course and its students."""
    course, ledger = host.settings.course, host.course_ledger
    record, claims, members = host.ledger.course(course), host.ledger.claims(), host.ledger.members(course)
    if record is None:
        raise HostError(f"course {course} was removed meanwhile")
    locked = lockouts.read(host.paths.lockouts)
    people = tuple(
        Person(
            name,
            claims[name].account.uid,
            claims[name].account.gid,
            member.port,
            claims[name].is_guest,
            locked.get(name, ""),
        )
        for name, member in members.items()
        if name in claims
    )
    retrievals = tuple(
        one
        for scope in (CHANGED, ALL, HOME)
        for one in ledger.last_retrievals(scope).values()
        if one.username in members
    )
    brought = Brought(
        tuple(members),
        ledger.deadlines(),
        ledger.extensions(),
        tuple(one for one in ledger.captures() if one.retrieved),
        ledger.failed_captures(),
        ledger.remarks(),
        retrievals,
    )
    return Records(record.front_port, people, brought)
