"""What every command needs first: the config, the roster, whose course it is, and the host behind it."""

from __future__ import annotations

import dataclasses
import logging
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher import inputs, settings
from nblauncher.commands import check
from nblauncher.course import CoursePaths, host_database
from nblauncher.errors import HostError, InputError, NblauncherError, RefusedError
from nblauncher.host import Host, this_host
from nblauncher.ledger import HostLedger
from nblauncher.model import Account, Roster
from nblauncher.settings import Settings

log = logging.getLogger(__name__)

SYSTEM_CONFIG = Path("/etc/nblauncher/notebooks.cfg")


@dataclass(frozen=True)
class Caller:
    """Who typed the command: `person` is who ran sudo, or the user of the process."""

    is_root: bool
    person: Account


@dataclass(frozen=True)
class Session:
    """Inputs as they are now and the host they are about."""

    host: Host
    caller: Caller
    roster: Roster | None
    """None when the command did not ask for the roster."""
    contents: tuple[tuple[str, bytes], ...]
    """The config and the roster as read, under the names they are kept by."""

    @property
    def settings(self) -> Settings:
        return self.host.settings


def caller(environment: Mapping[str, str]) -> Caller:
    """Of this process, from its uid and, for root, from SUDO_UID (sudo(8))."""
    uid = os.geteuid()
    if uid == 0 and environment.get("SUDO_UID", "").isdigit():
        return Caller(True, _account_of(int(environment["SUDO_UID"])))
    return Caller(uid == 0, _account_of(uid))


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
    who: Caller, config: Path | None, files: tuple[Path, ...], *, needs_roster: bool, takes_over: bool = False
) -> Session:
    """Read and check the inputs, as the people they belong to.

    The roster is read when the command needs it or when it was given on the command line. Raises InputError with
    every problem of config and roster at once, and RefusedError when the course was set up with another config, unless
    this one `takes_over`.
    """
    file = config_file(config, files)
    roster_file = given_roster(files)
    trusted = trusted_uids(who, file)
    if needs_roster or roster_file:
        parsed, students, problems, contents = check.read_inputs(file, roster_file, allowed_uids=trusted)
        if parsed is None or students is None or problems:
            raise InputError(problems, "Nothing was changed.")
        parsed = dataclasses.replace(parsed, students=roster_file) if roster_file else parsed
    else:
        students, contents = None, {"notebooks.cfg": inputs.read_trusted(file, allowed_uids=trusted)}
        parsed = settings.parse(contents["notebooks.cfg"], file, uid_min=check.uid_min())
    if not takes_over:
        refuse_another_place(who, parsed.course, file)
    owner = owner_of(who, parsed, takes_over=takes_over)
    _refuse_conflicts(who, parsed, owner)
    return Session(this_host(parsed, owner), who, students, tuple(contents.items()))


def open_accepted(who: Caller, course: str) -> Session:
    """The course with its config as it was accepted last, whatever became of the file since. HostError without one."""
    record = HostLedger(host_database()).course(course)
    accepted = CoursePaths(course).accepted / "notebooks.cfg"
    if record is None or not accepted.is_file():
        raise HostError(f"there is no accepted config of course {course}", "Run `nblauncher setup` first.")
    content, file = accepted.read_bytes(), Path(record.config)
    try:
        if inputs.read_trusted(file, allowed_uids=frozenset({0, record.owner_uid})) != content:
            log.warning("%s was changed since it was accepted; the accepted one is used", file)
    except NblauncherError as error:
        log.warning("the accepted config is used: %s", error.problem)
    parsed = settings.parse(content, file, uid_min=check.uid_min())
    return Session(this_host(parsed, owner_of(who, parsed)), who, None, (("notebooks.cfg", content),))


def reader_of(host: Host, path: Path, person: Account) -> Account:
    """Who reads a file that was named: in a student's home that student, else whoever asks."""
    claims = host.ledger.claims()
    for name in host.ledger.members(host.settings.course):
        if name in claims and claims[name].account.home in path.parents:
            return claims[name].account
    return person


def require_root(who: Caller, command: str) -> None:
    if not who.is_root:
        raise RefusedError(f"`nblauncher {command}` must run as root", f"Try `sudo nblauncher {command}`.")


def refuse_another_place(who: Caller, course: str, file: Path) -> None:
    """Two folders whose configs name the same course would act on one class: stop it, or delete it. RefusedError."""
    record = HostLedger(host_database()).course(course) if who.is_root else None
    if record is None or not record.config or _is_same(record.config, file):
        return
    raise RefusedError(
        f"course {course} of this host was set up with {record.config}, not with {file}; nothing was changed",
        f"Go on there (-c {record.config}), or give this course another name. "
        "If that config moved here, or this one is to take its place for good: `nblauncher setup --take-over`.",
    )


def _is_same(config: str, file: Path) -> bool:
    """Whatever links and dots are on the way."""
    return os.path.realpath(config) == os.path.realpath(file)


def _refuse_conflicts(who: Caller, parsed: Settings, owner: Account) -> None:
    """Folders that must not lie in a student's home, or be a whole home."""
    homes = {}
    if who.is_root:
        homes = {
            name: claim.account.home
            for name, claim in HostLedger(host_database()).claims().items()
            if claim.account.uid != owner.uid
        }
    problems = settings.conflicts(parsed, homes, owner.home)
    if problems:
        raise InputError(problems, "Nothing was changed.")


def trusted_uids(who: Caller, config: Path) -> frozenset[int]:
    """Whose config and roster we take: root's, the caller's, and the recorded owner's of a course with this config."""
    recorded = frozenset[int]()
    if who.is_root:
        recorded = frozenset(
            course.owner_uid for course in HostLedger(host_database()).courses() if _is_same(course.config, config)
        )
    return frozenset({0, who.person.uid}) | recorded


def owner_of(who: Caller, parsed: Settings, *, takes_over: bool = False) -> Account:
    """The course's owner: as configured, else as recorded at setup, else who ran sudo, else root.

    RefusedError where that is another account than the recorded one; `takes_over`: one that was made anew is not.
    """
    record = HostLedger(host_database()).course(parsed.course) if who.is_root else None
    name = parsed.owner or (record.owner if record else "") or who.person.username
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
            f"uid {entry.pw_uid}, so it was made anew or changed; nothing was done",
            f"Give it its uid back (`usermod -u {record.owner_uid} {name}`), or, if it is the same teacher and the "
            f"course's files are uid {entry.pw_uid}'s by now: `nblauncher setup --take-over`.",
        )
    return _account(entry)


def _account_of(uid: int) -> Account:
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        raise RefusedError(f"uid {uid} has no account on this host") from None


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), entry.pw_shell)
