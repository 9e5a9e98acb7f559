"""shutdown: the class's servers with everything that they started, and nobody else's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from nblauncher import moments
from nblauncher.commands import pending
from nblauncher.host import Host
from nblauncher.model import Deadline, ServerState
from nblauncher.plan import Details, Phase, Plan, Report, SomeFailed, Step
from nblauncher.supervisor import client, registry
from nblauncher.supervisor.client import Client
from nblauncher.supervisor.specs import ServerReport

GRACE = 10.0
"""Seconds that a server has to save and stop before everything in its control group is killed."""

RUNNING = (ServerState.READY, ServerState.STARTING)


def prepare(host: Host, usernames: Sequence[str], *, everybody: bool) -> Plan:
    """Look at what runs, and plan its end; without `--only` front page and supervisor end as well."""
    members = host.ledger.members(host.settings.course)
    with_class = has_class(host)
    running = {report.username for report in reports(host) if report.state in RUNNING}
    scheduled = pending.scheduled(host, datetime.now(timezone.utc)) if everybody else ()
    wanted_up = {name for name, desired in host.course_ledger.desired().items() if desired != "down"}
    stopping = [name for name in usernames if name in members and (name in running or name in wanted_up)]
    return Plan(
        (
            Phase("what is scheduled", tuple(map(CancelScheduled, scheduled))),
            Phase("stop servers", steps(stopping) if stopping else ()),
            Phase("end the class", (EndClass(),) if everybody and with_class else ()),
        )
    )


def steps(usernames: Sequence[str]) -> tuple[Step, ...]:
    """Stopping these students' servers, for `remove` as well."""
    return (StopServers(tuple(usernames)),)


@dataclass(frozen=True)
class CancelScheduled:
    """What `retrieve --at` asked for ends with the class. A command that waits for it sees that it is gone."""

    deadline: Deadline
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"cancel the capture of {self.deadline.name} at {moments.short(self.deadline.at)}"

    def apply(self, host: Host) -> None:
        host.course_ledger.cancel_deadlines([self.deadline.name])


@dataclass(frozen=True)
class StopServers:
    """The wish first, then the deed: a supervisor that starts again in between must not wake them."""

    usernames: tuple[str, ...]

    def describe(self) -> str:
        return f"stop {servers_of(self.usernames)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        host.course_ledger.set_desired(self.usernames, "down")
        supervisor = found_supervisor(host)
        if supervisor is None:
            return {}
        with supervisor:
            known = {report.username for report in supervisor.servers()}
            stopped = supervisor.stop_servers([name for name in self.usernames if name in known], grace=GRACE)
        failures = {report.username: _words(report) for report in stopped if report.state in RUNNING}
        if failures:
            raise SomeFailed(failures)
        return {report.username: _details(report) for report in stopped}


@dataclass(frozen=True)
class EndClass:
    """Front page and supervisor end, and let go of the ports."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "stop the front page and the supervisor"

    def apply(self, host: Host) -> None:
        end_class(host)


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The server of each student whom a supervisor still knows, for the report."""
    return {one.username: {"server": one.state.value} for one in reports(host) if one.username in usernames}


def summary(report: Report) -> str:
    """Where no control group can be made: which processes were left alone for want of proof. Mostly empty."""
    left = {student.username: student.details.get("unproven") for student in report.students.values()}
    lines = [
        f"  {username}: {', '.join(map(str, pids))} may have come from the server and cannot be proven to"
        for username, pids in left.items()
        if pids
    ]
    return "\n".join([f"{servers_of(report.done)} stopped. Processes that were left alone:", *lines]) if lines else ""


def end_class(host: Host) -> None:
    supervisor = found_supervisor(host)
    if supervisor is not None:
        with supervisor:
            supervisor.end(grace=GRACE)


def found_supervisor(host: Host) -> Client | None:
    """The supervisor, started anew when a killed one left something behind; None when there is no class."""
    return client.start(host.paths) if has_class(host) else None


def has_class(host: Host) -> bool:
    """Whether there is a supervisor, or what a killed one left: its socket, or servers that it remembered."""
    return host.paths.supervisor_socket.exists() or bool(registry.load(host.paths.run / registry.FILE))


def reports(host: Host) -> tuple[ServerReport, ...]:
    """What the supervisor knows; nothing when there is none. Starts nothing."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return ()
    with supervisor:
        return supervisor.servers()


def servers_of(students: Sequence[object]) -> str:
    """`1 server`, `31 servers`."""
    return "1 server" if len(students) == 1 else f"{len(students)} servers"


def _details(report: ServerReport) -> Details:
    """`unproven`: where no control group can be made, processes that were left alone for want of proof."""
    return {"server": report.state.value, "unproven": list(report.unproven)}


def _words(report: ServerReport) -> str:
    return f"the server does not end: {report.reason}"
