"""reload: what is new in roster and config, for a class that runs. Whoever works notices nothing."""

from __future__ import annotations

from nblauncher.commands import classroom, front_page, launch, setup, shutdown
from nblauncher.commands.session import Session
from nblauncher.errors import RefusedError
from nblauncher.host import Host
from nblauncher.model import Roster, ServerState
from nblauncher.plan import Plan
from nblauncher.supervisor import client


def prepare(host: Host, wanted: Roster, session: Session) -> Plan:
    """What `setup` would do, then a server for everybody who had none since the class was launched, and the front page
    again when it must know something new.

    A student who was shut down stays so. RefusedError when there is no class.
    """
    supervisor = client.connect(host.paths)
    if supervisor is None:
        raise RefusedError("the class does not run", "Run `nblauncher setup` and `nblauncher launch`.")
    with supervisor:
        state_of = {report.username: report.state for report in supervisor.servers()}
    launch.require_kernels(host)
    made = setup.prepare(host, wanted, session)
    newcomers = tuple(name for name in wanted.usernames if name not in state_of)
    on_demand = host.settings.notebook.start == "on-demand" or ServerState.ASLEEP in state_of.values()
    is_current = made.is_empty and not newcomers and front_page.is_current(host)
    running = [name for name, state in state_of.items() if state in shutdown.RUNNING]
    outdated = classroom.outdated(host, running)
    plan = Plan(
        (*made.phases, *launch.starting_phases(newcomers, on_demand, is_current, launch.files_are_current(host))),
        (*made.notes, *([launch.outdated_words(outdated)] if outdated else [])),
    )
    launch.refuse_what_does_not_fit(plan, host.settings.notebook.spawner)
    return plan
