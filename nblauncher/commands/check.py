"""`check`: a preflight that changes nothing and says for each thing ok, warning or problem, and what to do."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import nblauncher
from nblauncher import cgroups, limits, memory, moments, namespaces, quotas
from nblauncher import roster as rosters
from nblauncher import settings as config
from nblauncher.assignments import Known as Outline
from nblauncher.commands import folders, packages, proxy
from nblauncher.course import STATE_ROOT
from nblauncher.errors import InputError, RefusedError
from nblauncher.forkserver import trusted
from nblauncher.frontends import FrontEnd
from nblauncher.inputs import read_trusted
from nblauncher.model import Roster
from nblauncher.preflight import firewall, identities, kernels, ports, storage, system, web
from nblauncher.preflight import holding as preflight_holding
from nblauncher.preflight.finding import Ask, Finding, ask, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.requirements import Requirements
from nblauncher.settings import Settings

__all__ = ["Finding", "Known", "checks", "is_good", "read_inputs", "verdict"]


Contents = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows about this host and this course; nothing before the first setup."""

    allotted_ports: frozenset[int] = frozenset()
    """The students' ports of this course."""
    own_ports: frozenset[int] = frozenset()
    """Ports that the running class holds: that they are taken is no problem."""
    other_courses: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Every other course's ports."""
    own_uids: frozenset[int] = frozenset()
    """Every uid that we ever gave."""
    members: frozenset[str] = frozenset()
    """Students who are in the course already."""
    homes: Mapping[str, Path] = field(default_factory=dict)
    """The students' homes, also those that setup would make."""
    owner_home: Path | None = None
    objections: Sequence[str] = ()
    """Rows of the roster that this host cannot take, a line each."""
    taken_homes: Sequence[Path] = ()
    """Homes of accounts that setup would make, where something is already."""
    refusals: Sequence[Finding] = ()
    """What else `setup` or `launch` would stop at."""
    served: frozenset[str] | None = frozenset()
    """Students whose servers run; None where only root could tell."""
    packages: Requirements | None = None
    """What the course asks for."""
    folders: Outline | None = None
    """What the material holds; None where nobody could look."""
    captured: frozenset[str] = frozenset()
    """Deadlines by name of which something is in the store."""
    notebooks: Mapping[str, str] = field(default_factory=dict)
    """Notebooks of the material that are not valid, and why."""
    frontend: FrontEnd | None = None
    """Of this course on this host; without it names and certificate are not looked at."""


def checks(
    settings: Settings | None, roster: Roster | None, problems: Sequence[str], known: Known | None = None
) -> list[Finding]:
    """Everything, in the order in which a person would mend it. Takes seconds where a name service is slow.

    `problems` are those of config and roster, as their InputErrors hold them; what could not be read is None, and
    what depends on it is left out. Runs as whoever calls; as root it sees more.
    """
    known = known or Known()
    found = [*inputs(settings, roster, problems), *known.refusals, *machine(ask)]
    if settings is not None:
        if settings.notebook.spawner == "forkserver":
            found.append(system.preloading(trusted.objections()))
            found += kernels.preloading(settings, config.DEFAULT_PRELOAD)
        found += [*kernels.packages(settings, known.packages), *kernels.for_the_browser(settings)]
        found += kernels.over_tcp(settings)
        if settings.notebook.kernel_python is not None:
            found += kernels.kernel_python(settings.notebook.kernel_python)
        found += [
            problem("material", f"{printable(path)} is not a valid notebook: {words}", "Mend it before it is sent.")
            for path, words in known.notebooks.items()
        ]
        found += [*holding(settings), *places(settings, roster, known), *network(settings, roster, known, ask)]
        found += accounts(settings, roster, known)
        found += past_deadlines(settings, known.captured, datetime.now(timezone.utc))
        found += deadlines(settings, roster, known)
    return found


def read_inputs(
    file: Path, roster_file: Path | None, *, allowed_uids: frozenset[int]
) -> tuple[Settings | None, Roster | None, list[str], Contents]:
    """Config and roster as far as they can be used, and every problem of both: a bad config hides no bad roster.

    Last come the bytes that were read, under the names by which the state folder keeps them.

    `roster_file` was given on the command line; else the config names it, or it stands beside a config that is wrong.
    """
    problems: list[str] = []
    contents: Contents = {}
    settings = roster = None
    try:
        contents["notebooks.cfg"] = read_trusted(file, allowed_uids=allowed_uids)
        settings = config.parse(contents["notebooks.cfg"], file, uid_min=uid_min())
        if isinstance(file_of_packages := settings.notebook.requirements, Path):
            contents[packages.CONTENT] = read_trusted(file_of_packages, allowed_uids=allowed_uids)
        packages.wanted(settings, contents)
    except (InputError, RefusedError) as error:
        problems += _problems_of(error)
    source = roster_file or (settings.students if settings else file.with_name("students.csv"))
    if settings is not None or roster_file is not None or os.path.lexists(source):
        try:
            contents["students.csv"] = read_trusted(source, allowed_uids=allowed_uids)
            roster = rosters.parse(contents["students.csv"], printable(source.name))
        except (InputError, RefusedError) as error:
            problems += _problems_of(error)
    return settings, roster, problems, contents


def uid_min() -> int:
    """The least uid of a person on this host (login.defs(5)); below it are the system's."""
    found = re.search(r"^\s*UID_MIN\s+(\d+)", _text("/etc/login.defs"), re.M)
    return int(found[1]) if found else 1000


def _problems_of(error: InputError | RefusedError) -> list[str]:
    """A refusal carries its own remedy; a wrong line is its own, but for the name that would do instead."""
    if isinstance(error, RefusedError):
        return [f"{error.problem}. {error.hint}"]
    remedy = error.hint.replace("Nothing was changed.", "").strip()
    if remedy and len(error.problems) == 1:
        return [f"{error.problem}{'' if error.problem.endswith(('.', '?')) else '.'} {remedy}"]
    return list(error.problems)


def is_good(findings: Sequence[Finding]) -> bool:
    """Whether a class can start: warnings are allowed."""
    return all(finding.level != "problem" for finding in findings)


def verdict(findings: Sequence[Finding], *, is_root: bool) -> str:
    """What it all comes to, in one line."""
    levels = [finding.level for finding in findings]
    warnings = _counted(levels.count("warning"), "warning")
    blind = "" if is_root else " Without root not everything could be looked at."
    if not is_good(findings):
        problems = _counted(levels.count("problem"), "problem")
        return f"{problems}: setup or launch would refuse. {warnings}.{blind}"
    return f"Ready{f', with {warnings}' if 'warning' in levels else ''}.{blind}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def inputs(settings: Settings | None, roster: Roster | None, problems: Sequence[str]) -> Iterator[Finding]:
    for words in problems:
        yield problem("roster and config", words, "Correct that line.")
    if settings is not None:
        yield ok("config", f"{printable(str(settings.file or 'built in'))} for the course {settings.course}")
    if roster is not None:
        yield ok("roster", f"{len(roster)} students")
        for column, meant in rosters.overlooked(roster):
            yield warning(
                "roster",
                f'the column "{printable(column)}" is kept and not used; is it the students\' {meant}?',
                f"Call one column {meant}, if it is.",
            )


def machine(ask: Ask) -> Iterator[Finding]:
    yield system.platform_is_linux()
    yield system.root(os.geteuid())
    yield from system.shadow_tools(ask, system.which)
    yield system.pidfds()
    yield system.cgroups(_text("/proc/self/mounts"), has_systemd=system.systemd_runs())
    package = Path(nblauncher.__file__).parent
    yield from system.reachable(
        "interpreter",
        {"Python": Path(sys.executable), "its environment": Path(sys.prefix), "nblauncher": package},
    )
    yield from system.versions(system.installed(), sys.version_info[:3])


def places(settings: Settings, roster: Roster | None, known: Known) -> Iterator[Finding]:
    """Folders that must not lie where they lie, and room in memory and on the disks."""
    for words in config.conflicts(settings, known.homes, known.owner_home):
        yield problem("folders", words, "Choose another folder.")
    if known.served is not None:
        yield storage.main_memory(
            memory.room(),
            settings.notebook.spawner,
            len(roster or ()),
            len(known.served),
            on_demand=settings.notebook.start == "on-demand",
        )
    disks = {"homes": settings.accounts.home, "state": STATE_ROOT, "retrieved work": settings.retrieve.target}
    yield from storage.room(disks, len(roster or ()))


def holding(settings: Settings) -> Iterator[Finding]:
    """Limits, isolation and quotas: by what this host holds a student."""
    mechanism = limits.mechanism(cgroups.choose(settings.course))
    yield from preflight_holding.limits(settings.limits, mechanism, memory.room())
    if os.geteuid() == 0:
        why = namespaces.objection() if settings.isolation else ""
        yield preflight_holding.isolation(settings.isolation, why, hides_processes=namespaces.hides_processes())
        has_quotas = quotas.read(settings.accounts.home, 0) is not None
        about = preflight_holding.disk(settings.limits, has_quotas=has_quotas, creates=settings.accounts.create)
        if about is not None:
            yield about


def network(settings: Settings, roster: Roster | None, known: Known, ask: Ask) -> Iterator[Finding]:
    """Ports, firewall, names and certificate."""
    elsewhere = {port for theirs in known.other_courses.values() for port in theirs}
    students = max(len(roster or ()), len(known.allotted_ports))
    wanted = ports.class_ports(settings.web.port, students, known.allotted_ports, elsewhere)
    yield from ports.blocked(settings.web.port, known.allotted_ports if settings.web.routing == "ports" else ())
    lacking = ports.enough(settings.web.port, students, wanted)
    if lacking:
        yield lacking
    addresses = settings.web.bind or ports.WILDCARDS
    yield from ports.free(wanted, addresses, known.own_ports, ports.holder_of)
    yield from ports.other_courses(wanted, known.other_courses)
    yield ports.ephemeral(
        wanted,
        _text("/proc/sys/net/ipv4/ip_local_port_range") or "32768 60999",
        _text("/proc/sys/net/ipv4/ip_local_reserved_ports"),
        settings.course,
    )
    yield from firewall.firewall(wanted, ask)
    if known.frontend is not None:
        yield from front_end(settings, roster, known.frontend)
        yield from web.names(settings.web.names, known.frontend, web.own_addresses())
        hosts = settings.web.names or (web.host_of(known.frontend),)
        if known.frontend.is_proxy:
            hosts = (*hosts, *known.frontend.certified(dict.fromkeys(roster.usernames if roster else (), 0)))
        yield from web.certificate(settings.tls, hosts)


def front_end(settings: Settings, roster: Roster | None, frontend: FrontEnd) -> Iterator[Finding]:
    """Whether nginx can be what it shall be."""
    if not frontend.is_proxy:
        return
    try:
        program, numbers = proxy.version()
        frontend.require(roster.usernames if roster else ())
    except (RefusedError, InputError) as error:
        for words in error.problem.splitlines():
            yield problem("front end", words, error.hint)
        return
    version = ".".join(map(str, numbers))
    yield ok("front end", f"{program} {version}, routing by {settings.web.routing}")
    if os.geteuid() == 0:
        yield web.crowding()


def past_deadlines(settings: Settings, captured: Collection[str], now: datetime) -> Iterator[Finding]:
    """One that is over is nothing special; one that is over before anything was captured may be a wrong year."""
    for one in settings.deadlines:
        if one.at > now:
            continue
        words = f"{printable(one.name)} is past: {moments.words(one.at)}"
        if one.name in captured:
            yield ok("deadlines", f"{words}; it was captured")
        else:
            hint = "Correct the time; else `launch` has the work captured as it is then, marked late."
            yield warning("deadlines", f"{words}, and nothing was captured", hint)


def accounts(settings: Settings, roster: Roster | None, known: Known) -> Iterator[Finding]:
    for words in known.objections:
        yield problem("roster", words, "Choose another username.")
    for home in known.taken_homes:
        shown = printable(str(home))
        yield problem(
            "homes", f"{shown} is there already, perhaps from an earlier account", f"Run `mv {shown} {shown}.old`."
        )
    yield identities.account_sources(_text("/etc/nsswitch.conf"), creates=settings.accounts.create)
    yield from identities.new_accounts(settings.accounts, _text("/etc/shells"))
    if settings.accounts.create:
        taken = {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()}
        new = len([name for name in (roster.usernames if roster else ()) if name not in known.members])
        yield from identities.uid_range(
            settings.accounts.uid_range, new, _text("/etc/login.defs"), taken, known.own_uids
        )


def deadlines(settings: Settings, roster: Roster | None, known: Known) -> Iterator[Finding]:
    """Folders that are none, and extra time that cannot be given."""
    judged = folders.judge(settings, roster or (), known.folders, known.captured)
    for words in judged.without_time:
        yield problem("deadlines", words, "Either of the two will do.")
    for words in judged.wrong:
        yield problem("deadlines", words, folders.HINT)
    for words in judged.absent:
        yield warning("deadlines", words, "Add it to the material before then, or correct the name.")


def _text(file: str) -> str:
    """A file of the system's; empty where it has none."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, PermissionError):
        return ""
