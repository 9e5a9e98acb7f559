"""`check`: a preflight that changes nothing and says for each thing ok, warning or problem, and what to do."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import nblauncher
from nblauncher.commands.deadlines import folders
from nblauncher.commands.running import nginx
from nblauncher.config import roster as rosters
from nblauncher.config import settings as config
from nblauncher.config import times
from nblauncher.config.assignments import Known as Outline
from nblauncher.config.requirements import Requirements
from nblauncher.config.settings import Settings
from nblauncher.errors import InputError, RefusedError
from nblauncher.frontends import FrontEnd
from nblauncher.isolation import cgroups, limits, namespaces, quotas
from nblauncher.model import Account, Roster
from nblauncher.paths import STATE_ROOT
from nblauncher.preflight import cluster, firewall, identities, kernels, machine, ports, storage, trial_job, web
from nblauncher.preflight import holding as preflight_holding
from nblauncher.preflight.finding import Ask, Finding, ask, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.system import memory, trusted


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """What `check` knows about this host and this course besides the config and the roster."""

    allotted_ports: frozenset[int] = frozenset()
    """The students' ports of this course."""
    own_ports: frozenset[int] = frozenset()
    """Ports that the running class holds: it is not a problem that they are taken."""
    other_courses: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Every other course's ports."""
    own_uids: frozenset[int] = frozenset()
    """Every uid that we ever allocated."""
    members: frozenset[str] = frozenset()
    """Students already in the course."""
    homes: Mapping[str, Path] = field(default_factory=dict)
    """The students' homes, also those that setup would make."""
    owner_home: Path | None = None
    objections: Sequence[str] = ()
    """Rows of the roster that this host cannot accept, a line each."""
    to_generate: int = 0
    """Accounts that `setup` would give a system password."""
    to_disable: int = 0
    """Accounts whose system password `setup` would disable."""
    taken_homes: Sequence[Path] = ()
    """Homes that setup would make and that exist already."""
    refusals: Sequence[Finding] = ()
    """What else would make `setup` or `launch` refuse."""
    served: frozenset[str] | None = frozenset()
    """Students with a running server; None if only root could tell."""
    packages: Requirements | None = None
    """The packages that the course requires."""
    folders: Outline | None = None
    """What the material holds; None if it could not be read."""
    captured: frozenset[str] = frozenset()
    """Names of deadlines with a capture in the store."""
    notebooks: Mapping[str, str] = field(default_factory=dict)
    """Invalid notebooks of the material, and why."""
    frontend: FrontEnd | None = None
    """Without it names and certificate are not checked."""
    trial_student: Account | None = None
    """As whom a job is tried on a cluster; None: nobody is set up yet, or we are not root."""


def checks(
    settings: Settings | None, roster: Roster | None, problems: Sequence[str], known: CheckFacts | None = None
) -> list[Finding]:
    """Everything, in the order in which a person would fix it. Takes seconds where a name service is slow.

    `problems` are those of config and roster, as their InputErrors hold them; what could not be read is None, and
    what depends on it is left out. Runs as the caller; root sees more.
    """
    known = known or CheckFacts()
    found = [*inputs(settings, roster, problems), *known.refusals, *_machine(ask)]
    if settings is not None:
        if settings.notebook.spawner == "forkserver":
            found.append(machine.preloading(trusted.objections()))
            found += kernels.preloading(settings, config.DEFAULT_PRELOAD)
        found += [*kernels.packages(settings, known.packages), *kernels.for_the_browser(settings)]
        found += kernels.over_tcp(settings)
        if settings.notebook.kernel_python is not None:
            found += kernels.kernel_python(settings.notebook.kernel_python)
        found += [
            problem("material", f"{printable(path)} is not a valid notebook: {words}", "Repair it before it is sent.")
            for path, words in known.notebooks.items()
        ]
        if settings.notebook.spawner == "slurm":
            found += on_cluster(settings, roster, known)
        else:
            found += holding(settings)
        found += [*places(settings, roster, known), *network(settings, roster, known, ask)]
        found += accounts(settings, roster, known)
        found += past_deadlines(settings, known.captured, datetime.now(timezone.utc))
        found += [*deadlines(settings, roster, known), *web.pages(settings)]
    return found


def is_good(findings: Sequence[Finding]) -> bool:
    """Whether a class can start: warnings are allowed."""
    return all(finding.level != "problem" for finding in findings)


def verdict(findings: Sequence[Finding], *, is_root: bool) -> str:
    """The result in one line."""
    levels = [finding.level for finding in findings]
    warnings = _counted(levels.count("warning"), "warning")
    blind = "" if is_root else " Without root not everything could be checked."
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
        overlooked = dict(rosters.overlooked(roster))
        if unused := [printable(column) for column in rosters.unused(roster) if column not in overlooked]:
            yield ok("roster", f"columns that are kept and not used: {', '.join(unused)}")
        for column, meant in overlooked.items():
            yield warning(
                "roster",
                f'the column "{printable(column)}" is kept and not used; is it the students\' {meant}?',
                f"Call one column {meant}, if it is.",
            )


def _machine(ask: Ask) -> Iterator[Finding]:
    yield machine.platform_is_linux()
    yield machine.root(os.geteuid())
    yield from machine.shadow_tools(ask, machine.which)
    yield machine.pidfds()
    yield machine.cgroups(_text("/proc/self/mounts"), has_systemd=machine.systemd_runs())
    package = Path(nblauncher.__file__).parent
    yield from machine.reachable(
        "interpreter",
        {"Python": Path(sys.executable), "its environment": Path(sys.prefix), "nblauncher": package},
    )
    yield from machine.versions(machine.installed(), sys.version_info[:3])


def places(settings: Settings, roster: Roster | None, known: CheckFacts) -> Iterator[Finding]:
    """Folders in places that are not allowed, and room in memory and on the disks."""
    for words in config.conflicts(settings, known.homes, known.owner_home):
        yield problem("folders", words, "Choose another folder.")
    if known.served is not None and settings.notebook.spawner != "slurm":
        yield storage.main_memory(
            memory.room(),
            settings.notebook.spawner,
            len(roster or ()),
            len(known.served),
            on_demand=settings.notebook.start == "on-demand",
        )
    disks = {"homes": settings.accounts.home, "state": STATE_ROOT, "retrieved work": settings.retrieve.target}
    yield from storage.room(disks, len(roster or ()))


def on_cluster(settings: Settings, roster: Roster | None, known: CheckFacts) -> Iterator[Finding]:
    """Servers as jobs: what Slurm says, and what a job of a student finds on a node."""
    found = cluster.findings(settings, roster.usernames if roster else ())
    yield from found
    if not is_good(found):
        return
    if known.trial_student is not None:
        yield from trial_job.findings(settings, known.trial_student)
    else:
        yield warning(
            "trial job",
            "homes, interpreter and network of a node were not tried: no student is set up yet, or this is not root",
            "Run `sudo nblauncher setup`, then `sudo nblauncher check` again.",
        )


def holding(settings: Settings) -> Iterator[Finding]:
    """Limits, isolation and quotas: how this host can confine a student."""
    mechanism = limits.mechanism(cgroups.choose(settings.course))
    yield from preflight_holding.limits(settings.limits, mechanism, memory.room())
    if os.geteuid() == 0:
        why = namespaces.objection() if settings.isolation else ""
        yield preflight_holding.isolation(settings.isolation, why, hides_processes=namespaces.hides_processes())
        has_quotas = quotas.read(settings.accounts.home, 0) is not None
        about = preflight_holding.disk(settings.limits, has_quotas=has_quotas, creates=settings.accounts.create)
        if about is not None:
            yield about


def network(settings: Settings, roster: Roster | None, known: CheckFacts, ask: Ask) -> Iterator[Finding]:
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
        hosts = (*hosts, *known.frontend.certified(dict.fromkeys(roster.usernames if roster else (), 0)))
        yield from web.certificate(settings.tls, hosts)


def front_end(settings: Settings, roster: Roster | None, frontend: FrontEnd) -> Iterator[Finding]:
    """Whether nginx is there and can serve this class."""
    if not frontend.is_proxy:
        return
    try:
        program, numbers = nginx.version()
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
    """A past deadline is normal; one without any capture may have the wrong year."""
    for deadline in settings.deadlines:
        if deadline.at > now:
            continue
        words = f"{printable(deadline.name)} is past: {times.words(deadline.at)}"
        if deadline.name in captured:
            yield ok("deadlines", f"{words}; it was captured")
        else:
            hint = "Correct the time; otherwise `launch` captures the work as it is then, marked late."
            yield warning("deadlines", f"{words}, and nothing was captured", hint)


def accounts(settings: Settings, roster: Roster | None, known: CheckFacts) -> Iterator[Finding]:
    for words in known.objections:
        yield problem("roster", words, "Choose another username.")
    for home in known.taken_homes:
        shown = printable(str(home))
        yield problem(
            "homes", f"{shown} exists already, perhaps from an earlier account", f"Run `mv {shown} {shown}.old`."
        )
    yield from system_passwords(settings, known)
    yield identities.account_sources(_text("/etc/nsswitch.conf"), creates=settings.accounts.create)
    yield from identities.new_accounts(settings.accounts, _text("/etc/shells"))
    if settings.accounts.create:
        taken = {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()}
        new = len([name for name in (roster.usernames if roster else ()) if name not in known.members])
        yield from identities.uid_range(
            settings.accounts.uid_range, new, _text("/etc/login.defs"), taken, known.own_uids
        )


def system_passwords(settings: Settings, known: CheckFacts) -> Iterator[Finding]:
    if settings.accounts.create and not settings.accounts.has_system_passwords:
        yield ok("passwords", "the notebook password is a student's only one; no password opens the accounts")
    for count, what in ((known.to_disable, "disables"), (known.to_generate, "generates")):
        if count:
            have = "still have a system password" if what == "disables" else "have no system password yet"
            yield warning("passwords", f"{count} accounts {have}", f"Run `nblauncher setup`, which {what} them.")


def deadlines(settings: Settings, roster: Roster | None, known: CheckFacts) -> Iterator[Finding]:
    """Folders that do not exist, and extra time that cannot be given."""
    judged = folders.judge(settings, roster or (), known.folders, known.captured)
    for words in judged.without_time:
        yield problem("deadlines", words, "Do one of the two.")
    for words in judged.wrong:
        yield problem("deadlines", words, folders.HINT)
    for words in judged.absent:
        yield warning("deadlines", words, "Add it to the material before then, or correct the name.")


def _text(file: str) -> str:
    """A system file; empty where it does not exist."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, PermissionError):
        return ""
