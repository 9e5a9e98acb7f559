"""restart: a new server for a student whose old one hangs, or only new kernels. No other student notices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nblauncher.commands.deadlines import freeze
from nblauncher.commands.running import launch, shutdown
from nblauncher.commands.running.starting import StartServers
from nblauncher.errors import HostError, RefusedError
from nblauncher.model import ServerState
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, Phase, Plan, SomeFailed
from nblauncher.supervisor import client
from nblauncher.supervisor.specs import ServerReport


def prepare(host: Host, usernames: Sequence[str], *, only_kernels: bool) -> Plan:
    """Survey and plan. RefusedError when there is no class."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        raise RefusedError("the class does not run", "Run `nblauncher launch`.")
    with supervisor:
        found = {report.username: report for report in supervisor.servers(usernames)}
    made = plan(usernames, found, set(freeze.words(host)), only_kernels=only_kernels)
    launch.refuse_what_does_not_fit(made, host.settings.notebook.spawner)
    return made


def plan(usernames: Sequence[str], found: Mapping[str, ServerReport], frozen: set[str], *, only_kernels: bool) -> Plan:
    """A sleeping server starts by itself, with what is new; a frozen one could not end in peace."""
    notes, wanted = [], []
    for name in usernames:
        report = found.get(name)
        if report is None:
            notes.append(f"{name} is not in the running class; `nblauncher reload` adds new students")
        elif name in frozen:
            notes.append(f"{name} is frozen, and left alone until `nblauncher thaw`")
        elif report.state is ServerState.ASLEEP:
            notes.append(f"{name}'s server is asleep: it starts when the student comes")
        elif only_kernels and report.state is not ServerState.READY:
            notes.append(f"{name}'s server is {report.state.value}, so it has no kernels")
        else:
            wanted.append(name)
    running = tuple(name for name in wanted if found[name].state in shutdown.RUNNING)
    if only_kernels:
        phases = [Phase("end kernels", (EndKernels(tuple(wanted)),) if wanted else ())]
    else:
        phases = [
            Phase("stop servers", (shutdown.StopServers(running, keeps_sessions=True),) if running else ()),
            Phase("start servers", (StartServers(tuple(wanted)),) if wanted else ()),
        ]
    return Plan(tuple(phases), (*notes, *_losses(running, found)))


@dataclass(frozen=True)
class EndKernels:
    """The students' servers end their kernels and start new ones for the notebooks that are open."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"end the kernels of {', '.join(self.usernames)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        supervisor = client.connect(host.paths)
        if supervisor is None:
            raise HostError("the supervisor is gone", "Run `nblauncher launch`.")
        with supervisor:
            outcomes = supervisor.end_kernels(self.usernames)
        missing = {name: "the student has no server" for name in self.usernames if name not in outcomes}
        failures = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str)} | missing
        if failures:
            raise SomeFailed(failures)
        return {name: {"kernels_ended": outcome} for name, outcome in outcomes.items()}


def _losses(running: Sequence[str], found: Mapping[str, ServerReport]) -> list[str]:
    """What the students lose by it, which is why the teacher is asked."""
    lines = []
    for name in running:
        count, busy = found[name].kernels, found[name].busy_kernels
        if count:
            kernels = f"{count} {'kernel' if count == 1 else 'kernels'}{f', {busy} busy' if busy else ''}"
            lines.append(f"{name} has {kernels}")
    if running:
        lines.append("variables and running cells are lost; files that were saved stay as they are")
    return lines
