"""launch: a notebook server per student and the front page, under a supervisor that outlives the terminal."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from nblauncher.commands import disks, wording
from nblauncher.commands.accepted import AcceptInputs
from nblauncher.commands.deadlines import folders, freeze, pending
from nblauncher.commands.running import classroom, cluster_rules, nginx, shutdown, starting
from nblauncher.commands.running.starting import ClassNow, StartServers
from nblauncher.config.settings import Settings
from nblauncher.errors import HostError, RefusedError
from nblauncher.isolation import namespaces
from nblauncher.model import AccountState, ServerState
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan, Report
from nblauncher.planning.survey import Facts
from nblauncher.preflight import cluster, kernels, storage
from nblauncher.preflight.ports import bind_trouble
from nblauncher.supervisor.ports import NO_IPV6
from nblauncher.system import memory

log = logging.getLogger(__name__)

_SERVABLE = (AccountState.COMPLETE, AccountState.CHANGED, AccountState.GUEST)


def prepare(
    host: Host, usernames: Sequence[str], contents: Sequence[tuple[str, bytes]], *, on_demand: bool = False
) -> Plan:
    """Survey and plan. `on_demand` overrides notebook.start. InputError when the administrator's certificate cannot
    serve the class.
    """
    require_kernels(host)
    require_isolation(host)
    require_front_end(host)
    require_cluster(host)
    wording.require(host, contents)
    remarks = folders.require_accepted(host, is_attended=bool(contents))
    on_demand = on_demand or host.settings.notebook.start == "on-demand"
    kept = ("notebooks.cfg", wording.CONTENT)
    accepted = AcceptInputs(tuple((name, content) for name, content in contents if name in kept))
    now = starting.look(host, usernames, on_demand=on_demand)
    frozen = f"frozen, and left alone until `nblauncher thaw`: {', '.join(sorted(now.frozen))}"
    made = plan(
        usernames,
        survey.survey(host, usernames),
        now,
        on_demand=on_demand,
        new_inputs=None if accepted.is_done(host) else accepted,
        warnings=(
            *_warnings(host.settings),
            *([frozen] if now.frozen else ()),
            *pending.missed(host, datetime.now(timezone.utc)),
            *remarks,
        ),
    )
    refuse_what_does_not_fit(made, host.settings.notebook.spawner)
    return made


def require_kernels(host: Host) -> None:
    """RefusedError when the config names a new Python for the kernels and no kernel can run with it."""
    python = host.settings.notebook.kernel_python
    if python is not None and not starting.files_are_current(host):
        for finding in kernels.kernel_python(python):
            if finding.level == "problem":
                raise RefusedError(finding.message, finding.hint)


def require_isolation(host: Host) -> None:
    """RefusedError when the config wants isolation and this host cannot isolate students."""
    if host.settings.notebook.spawner == "slurm":
        return
    if host.settings.isolation and (why := namespaces.objection()):
        raise RefusedError(
            f"students cannot be kept apart on this host: {why}",
            "Set `isolation: false` in the config if you know your students, or use another host.",
        )


def require_front_end(host: Host) -> None:
    """RefusedError or InputError when nginx or the administrator's certificate cannot serve the class."""
    cluster_rules.require(host)
    nginx.require(host)
    if host.settings.tls.mode == "files":
        classroom.own_files(host)


def require_cluster(host: Host) -> None:
    """RefusedError when no job of the class could run on the cluster; HostError when it cannot be asked."""
    if host.settings.notebook.spawner == "slurm":
        cluster.require(host.settings)


def refuse_what_does_not_fit(plan: Plan, spawner: str) -> None:
    """RefusedError when the host lacks memory for the servers that would start at once."""
    if spawner == "slurm":
        return  # they take none here
    count = sum(len(step.usernames) for step in plan.steps if isinstance(step, StartServers) and not step.on_demand)
    room = memory.room()
    if count > room.servers(spawner):
        raise RefusedError(*storage.does_not_fit(room, spawner, count))


def plan(
    usernames: Sequence[str],
    facts: Facts,
    now: ClassNow,
    *,
    on_demand: bool = False,
    new_inputs: AcceptInputs | None = None,
    warnings: Sequence[str] = (),
) -> Plan:
    """Servers for the students who are set up and have none; then the front page, unless it is current."""
    if not facts.members:
        raise HostError("no student is set up in this course yet", "Run `nblauncher setup` first.")
    leaving = [name for name in usernames if name in facts.locked]
    shut = [name for name in usernames if name in facts.locked_out and name not in facts.locked]
    requested = [name for name in usernames if name not in {*facts.locked, *facts.locked_out}]
    missing = tuple(name for name in requested if _is_set_up(name, facts) and name not in now.served)
    return Plan(
        (
            Phase("not set up", tuple(NotSetUp((name,)) for name in requested if not _is_set_up(name, facts))),
            *([Phase("disk quotas", tuple(map(disks.LimitDisk, now.without_quota)))] if now.without_quota else []),
            *starting.phases(missing, now, on_demand=on_demand, new_inputs=new_inputs),
        ),
        (
            *(f"{name} is not served: the removal began and did not finish" for name in leaving),
            *([f"locked, and not served: {', '.join(shut)}"] if shut else []),
            *([outdated_words(now.outdated)] if now.outdated else []),
            *warnings,
        ),
    )


@dataclass(frozen=True)
class NotSetUp:
    """Report a requested student as not set up."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"leave {self.usernames[0]} out: not set up"

    def apply(self, host: Host) -> None:
        raise HostError("not set up", "Run `nblauncher setup`.")


def served_words(report: Report) -> str:
    """`28 of 30 servers are ready`, or with sleeping servers `3 of 30 servers are ready, 27 start when ...`."""
    states = [student.details.get("server") for student in report.students.values()]
    ready, asleep = states.count(ServerState.READY.value), states.count(ServerState.ASLEEP.value)
    more = f", {asleep} start when their students come" if asleep else ""
    if queued := states.count(ServerState.QUEUED.value):
        more += f", {queued} {'waits' if queued == 1 else 'wait'} in the cluster's queue"
    if frozen := states.count(ServerState.FROZEN.value):
        more += f", {frozen} {'is' if frozen == 1 else 'are'} frozen"
    return f"{ready} of {len(states)} servers are ready{more}"


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """url, port and state of each student's server, for the report."""
    members = host.ledger.members(host.settings.course)
    reports, frozen = {report.username: report for report in shutdown.reports(host)}, freeze.words(host)
    return {
        name: {
            "server": freeze.shown_of(reports.get(name), frozen.get(name)).value,
            "port": members[name].port,
            "url": host.frontend.route(name, members[name].port).url,
        }
        for name in usernames
        if name in members
    }


def _is_set_up(name: str, facts: Facts) -> bool:
    return name in facts.members and name in facts.with_passwords and facts.state(name) in _SERVABLE


def outdated_words(names: Sequence[str]) -> str:
    named = ", ".join(names) if len(names) <= 5 else shutdown.servers_of(names)
    return f"{named}: running with an older config; `nblauncher shutdown` and `launch` apply the new one"


def _warnings(settings: Settings) -> tuple[str, ...]:
    warnings = []
    if settings.tls.mode == "off":
        warnings.append("tls.mode is off: passwords and work cross the network in the clear")
    if settings.tls.mode == "files" and settings.web.frontend != "nginx":
        warnings.append("tls.share_key_with_students is on: every student can read the key of tls.key")
    if not settings.web.bind and bind_trouble(socket.AF_INET6, "::", 0) in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
        warnings.append(NO_IPV6)
    return tuple(warnings)
