"""What every command needs first: the config, the roster, the course's owner, and the host."""

from __future__ import annotations

import dataclasses
import logging
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.commands import inputs, wording
from nblauncher.config import roster as rosters
from nblauncher.config import settings
from nblauncher.config.settings import Settings
from nblauncher.config.trusted_files import read_trusted
from nblauncher.errors import HostError, InputError, NblauncherError, RefusedError
from nblauncher.ledger import HostLedger
from nblauncher.model import Account, Roster
from nblauncher.paths import CoursePaths, host_database
from nblauncher.planning.host import Host, this_host
from nblauncher.printable import printable

log = logging.getLogger(__name__)

SYSTEM_CONFIG = Path("/etc/nblauncher/notebooks.cfg")


@dataclass(frozen=True)
class Caller:
    """The caller of the command: `person` is the user who ran sudo, or the user of the process."""

    is_root: bool
    person: Account


@dataclass(frozen=True)
class Session:
    """The inputs as they are now, and the host."""

    host: Host
    caller: Caller
    roster: Roster | None
    """None when the command did not ask for the roster."""
    contents: tuple[tuple[str, bytes], ...]
    """The config and the roster as read, by the name under which they are kept."""

    @property
    def settings(self) -> Settings:
        return self.host.settings


def caller(environment: Mapping[str, str]) -> Caller:
    """Of this process, from its uid and, for root, from SUDO_UID (sudo(8))."""
    uid = os.geteuid()
    if uid == 0 and environment.get("SUDO_UID", "").isdigit():
        return Caller(True, _account_of(int(environment["SUDO_UID"])))
    return Caller(uid == 0, _account_of(uid))


def caller_now() -> Caller:
    return caller(os.environ)


def config_file(given: Path | None, files: Iterable[Path]) -> Path:
    """The config to use; InputError when there is none."""
    named = [file for file in files if file.suffix.lower() != ".csv"]
    if len(named) > 1 or (named and given):
        raise InputError(f"more than one config was given: {', '.join(map(str, filter(None, [given, *named])))}")
    if given or named:
        return (given or named[0]).absolute()
    for candidate in (Path("notebooks.cfg").absolute(), SYSTEM_CONFIG):
        # Not exists(): that raises where the folder may not be searched. Reading says later what is wrong.
        if os.path.lexists(candidate):
            return candidate
    raise InputError(
        "there is no notebooks.cfg here and no /etc/nblauncher/notebooks.cfg",
        "Write one with `nblauncher init`, or name it with -c.",
    )


def given_roster(files: Iterable[Path]) -> Path | None:
    """The roster on the command line; InputError when there are several."""
    given = [file for file in files if file.suffix.lower() == ".csv"]
    if len(given) > 1:
        raise InputError(f"more than one roster was given: {', '.join(map(str, given))}")
    return given[0].absolute() if given else None


def open_session(
    caller: Caller, config: Path | None, files: tuple[Path, ...], *, needs_roster: bool, takes_over: bool = False
) -> Session:
    """Read and check the inputs, as their owners.

    The roster is read when the command needs it or when it was given on the command line. Raises InputError with
    every problem of config and roster at once, and RefusedError when the course was set up with another config, unless
    this one `takes_over`.
    """
    file = config_file(config, files)
    roster_file = given_roster(files)
    trusted = trusted_uids(caller, file)
    if needs_roster or roster_file:
        parsed, students, problems, contents = inputs.read(file, roster_file, allowed_uids=trusted)
        if parsed is None or students is None or problems:
            raise InputError(problems, "Nothing was changed.")
        parsed = dataclasses.replace(parsed, students=roster_file) if roster_file else parsed
    else:
        students, contents = None, {"notebooks.cfg": read_trusted(file, allowed_uids=trusted)}
        parsed = settings.parse(contents["notebooks.cfg"], file, uid_min=inputs.uid_min())
        parsed = wording.with_texts_or_accepted(parsed, contents, trusted)
    if not takes_over:
        refuse_another_place(caller, parsed.course, file)
    owner = owner_of(caller, parsed, takes_over=takes_over)
    refuse_conflicts(caller, parsed, owner)
    return Session(this_host(parsed, owner), caller, students, tuple(contents.items()))


def current_roster(session: Session) -> Roster:
    """The roster as it is now, for a command that needs it only to find students in it."""
    if session.roster is not None:
        return session.roster
    file = session.settings.students
    allowed = frozenset({0, session.caller.person.uid, session.host.owner.uid})
    return rosters.parse(read_trusted(file, allowed_uids=allowed), printable(file.name), judges_extra_time=False)


def open_accepted(caller: Caller, course: str) -> Session:
    """The course with the config that was accepted last, even if the file changed. HostError if there is none."""
    record = HostLedger(host_database()).course(course)
    accepted = CoursePaths(course).accepted / "notebooks.cfg"
    if record is None or not accepted.is_file():
        raise HostError(f"there is no accepted config of course {course}", "Run `nblauncher setup` first.")
    content, file = accepted.read_bytes(), Path(record.config)
    try:
        if read_trusted(file, allowed_uids=frozenset({0, record.owner_uid})) != content:
            log.warning("%s was changed since it was accepted; the accepted one is used", file)
    except NblauncherError as error:
        log.warning("the accepted config is used: %s", error.problem)
    parsed = wording.with_accepted(settings.parse(content, file, uid_min=inputs.uid_min()))
    return Session(this_host(parsed, owner_of(caller, parsed)), caller, None, (("notebooks.cfg", content),))


def reader_of(host: Host, path: Path, person: Account) -> Account:
    """The account that reads a given file: the student if it is in a student's home, else the caller."""
    claims = host.ledger.claims()
    for name in host.ledger.members(host.settings.course):
        if name in claims and claims[name].account.home in path.parents:
            return claims[name].account
    return person


def require_root(caller: Caller, command: str) -> None:
    if not caller.is_root:
        raise RefusedError(
            f"`nblauncher {command}` must run as root", f"Run it with sudo: `sudo nblauncher {command}`."
        )


def refuse_another_place(caller: Caller, course: str, file: Path) -> None:
    """RefusedError if the course was set up with another config: two configs would act on one class, and delete it."""
    record = HostLedger(host_database()).course(course) if caller.is_root else None
    if record is None or not record.config or _is_same(record.config, file):
        return
    raise RefusedError(
        f"course {course} of this host was set up with {record.config}, not with {file}; nothing was changed",
        f"Use that config (-c {record.config}), or give this course another name. "
        "If that config was moved here, or this one replaces it for good: `nblauncher setup --take-over`.",
    )


def _is_same(config: str, file: Path) -> bool:
    """Whether both are the same file, through links and dots."""
    return os.path.realpath(config) == os.path.realpath(file)


def refuse_conflicts(caller: Caller, parsed: Settings, owner: Account) -> None:
    """InputError for folders in a student's home, or that are a whole home."""
    homes = {}
    if caller.is_root:
        homes = {
            name: claim.account.home
            for name, claim in HostLedger(host_database()).claims().items()
            if claim.account.uid != owner.uid
        }
    problems = settings.conflicts(parsed, homes, owner.home)
    if problems:
        raise InputError(problems, "Nothing was changed.")


def trusted_uids(caller: Caller, config: Path) -> frozenset[int]:
    """Owners of files that we accept: root, the caller, and the recorded owner of a course with this config."""
    recorded = frozenset[int]()
    if caller.is_root:
        recorded = frozenset(
            course.owner_uid for course in HostLedger(host_database()).courses() if _is_same(course.config, config)
        )
    return frozenset({0, caller.person.uid}) | recorded


def owner_of(caller: Caller, parsed: Settings, *, takes_over: bool = False) -> Account:
    """The course's owner: as configured, else as recorded at setup, else the user who ran sudo, else root.

    RefusedError if that is not the recorded account. With `takes_over` an account that was recreated is accepted.
    """
    record = HostLedger(host_database()).course(parsed.course) if caller.is_root else None
    name = parsed.owner or (record.owner if record else "") or caller.person.username
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise InputError(f'owner: there is no account "{name}" on this host', "Nothing was changed.") from None
    if record is None or record.owner_uid == entry.pw_uid:
        return _account(entry)
    if record.owner != name:
        raise RefusedError(
            f"course {parsed.course} belongs to {record.owner} (uid {record.owner_uid}), not to {name}",
            "Choose another course name, or set owner in the config back.",
        )
    if not takes_over:
        raise RefusedError(
            f"course {parsed.course} was set up for {name} when that account had uid {record.owner_uid}; now it has "
            f"uid {entry.pw_uid}, so it was recreated or changed; nothing was done",
            f"Restore its uid (`usermod -u {record.owner_uid} {name}`), or, if it is the same teacher and the "
            f"course's files are uid {entry.pw_uid}'s now: `nblauncher setup --take-over`.",
        )
    return _account(entry)


def _account_of(uid: int) -> Account:
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        raise RefusedError(f"uid {uid} has no account on this host") from None


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), entry.pw_shell)
