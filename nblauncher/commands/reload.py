"""reload: what is new in roster and config, for a class that runs. Whoever works notices nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from nblauncher.commands import appointments, classroom, front_page, launch, pending, setup, shutdown
from nblauncher.commands.session import Session
from nblauncher.errors import RefusedError
from nblauncher.host import Host
from nblauncher.model import Roster, ServerState
from nblauncher.plan import Phase, Plan
from nblauncher.supervisor import client
from nblauncher.supervisor.specs import ServerReport


def prepare(host: Host, wanted: Roster, session: Session) -> Plan:
    """What `setup` would do, then a server for everybody who had none since the class was launched, and the front page
    again when it must know something new.

    A student who was shut down stays so. RefusedError when there is no class.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        raise RefusedError("the class does not run", "Run `nblauncher setup` and `nblauncher launch`.")
    with supervisor:
        found = {report.username: report for report in supervisor.servers()}
    launch.require_kernels(host)
    made = setup.prepare(host, wanted, session)
    desired = host.course_ledger.desired()
    newcomers = tuple(
        name for name in wanted.usernames if name not in found or _was_cut_short(found[name], desired.get(name, "down"))
    )
    states = [report.state for report in found.values()]
    on_demand = host.settings.notebook.start == "on-demand" or ServerState.ASLEEP in states
    is_current = made.is_empty and not newcomers and front_page.is_current(host)
    running = [report.username for report in found.values() if report.state in shutdown.RUNNING]
    outdated = classroom.outdated(host, running)
    plan = Plan(
        (
            *made.phases,
            Phase("who is new", (WantServers(newcomers),) if newcomers else ()),
            *launch.starting_phases(
                newcomers,
                on_demand,
                is_current,
                made.is_empty and launch.files_are_current(host),
                appointments_are_current=appointments.are_current(host),
            ),
        ),
        (
            *made.notes,
            *([launch.outdated_words(outdated)] if outdated else []),
            *pending.missed(host, datetime.now(timezone.utc)),
        ),
    )
    launch.refuse_what_does_not_fit(plan, host.settings.notebook.spawner)
    return plan


@dataclass(frozen=True)
class WantServers:
    """Before the ports: from then on a student whose server was never started looks like one who was shut down."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"remember that {shutdown.servers_of(self.usernames)} shall run"

    def apply(self, host: Host) -> None:
        host.course_ledger.set_desired(self.usernames, "up")


def _was_cut_short(report: ServerReport, desired: str) -> bool:
    """Whether a killed `reload` held the port and did not come to start the server."""
    return desired != "down" and report.state is ServerState.STOPPED and report.started_at == 0
