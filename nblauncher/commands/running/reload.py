"""reload: applies changes of roster and config to a running class, without disturbing working students."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from nblauncher.commands import setup
from nblauncher.commands.deadlines import pending
from nblauncher.commands.running import classroom, cluster_rules, front_page, launch, schedule, shutdown, starting
from nblauncher.commands.running.starting import ClassNow
from nblauncher.commands.session import Session
from nblauncher.errors import RefusedError
from nblauncher.ledger import lockouts
from nblauncher.model import Roster, ServerState
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Phase, Plan
from nblauncher.supervisor import client
from nblauncher.supervisor.specs import ServerReport


def prepare(host: Host, wanted: Roster, session: Session) -> Plan:
    """What `setup` would do, then servers for students who had none since the launch; restart the front page if its
    inputs changed.

    A server that was shut down stays down. RefusedError when there is no class.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        raise RefusedError("the class does not run", "Run `nblauncher setup` and `nblauncher launch`.")
    with supervisor:
        found = {report.username: report for report in supervisor.servers()}
    cluster_rules.require(host)
    launch.require_kernels(host)
    launch.require_cluster(host)
    made = setup.prepare(host, wanted, session)
    desired = host.course_ledger.desired()
    shut = lockouts.read(host.paths.lockouts)
    newcomers = tuple(
        name
        for name in wanted.usernames
        if name not in shut and (name not in found or _was_cut_short(found[name], desired.get(name, "down")))
    )
    states = [report.state for report in found.values()]
    on_demand = host.settings.notebook.start == "on-demand" or ServerState.ASLEEP in states
    running = [report.username for report in found.values() if report.state in shutdown.RUNNING]
    now = ClassNow(
        outdated=classroom.outdated(host, running),
        front_page_is_current=made.is_empty and not newcomers and front_page.is_current(host),
        files_are_current=made.is_empty and starting.files_are_current(host),
        schedule_is_current=schedule.is_current(host),
    )
    plan = Plan(
        (
            *made.phases,
            Phase("newcomers", (WantServers(newcomers),) if newcomers else ()),
            *starting.phases(newcomers, now, on_demand=on_demand),
        ),
        (
            *made.notes,
            *([launch.outdated_words(now.outdated)] if now.outdated else []),
            *pending.missed(host, datetime.now(timezone.utc)),
        ),
    )
    launch.refuse_what_does_not_fit(plan, host.settings.notebook.spawner)
    return plan


def is_needed(host: Host, new: Collection[str]) -> bool:
    """Whether a class runs without what `setup` made or accepted. `new` are the students that it made something for."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    with supervisor:
        served = {report.username for report in supervisor.servers()}
        is_open = supervisor.front_page().state is ServerState.READY
    return (
        not served.issuperset(new)
        or (is_open and not front_page.is_current(host))
        or not starting.files_are_current(host)
        or not schedule.is_current(host)
    )


def newcomers_words(host: Host, plan: Plan) -> str:
    """For the teacher: whom `reload` let in, where their passwords are, and what a firewall must let through."""
    names = [name for step in plan.steps if isinstance(step, WantServers) for name in step.usernames]
    if not names:
        return ""
    members = host.ledger.members(host.settings.course)
    public = host.frontend.public_ports({name: members[name].port for name in names if name in members})
    ports = sorted(port for port, username in public.items() if username)
    words = f"New: {_few(names)}. Their passwords are in {host.settings.credentials}"
    return words + (f"\nA firewall must let TCP {_few(list(map(str, ports)))} through as well." if ports else "")


def _few(words: Sequence[str], most: int = 10) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class WantServers:
    """Before the ports are bound: after that, a server that was never started looks like one that was shut down."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"remember that {shutdown.servers_of(self.usernames)} should run"

    def apply(self, host: Host) -> None:
        host.course_ledger.set_desired(self.usernames, "up")


def _was_cut_short(report: ServerReport, desired: str) -> bool:
    """Whether a killed `reload` bound the port but did not start the server."""
    return desired != "down" and report.state is ServerState.STOPPED and report.started_at == 0
