"""shutdown: stops the class's servers with everything that they started, and no other process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from nblauncher.commands.deadlines import pending
from nblauncher.config import times
from nblauncher.errors import HostError
from nblauncher.model import IS_GOING_ON, Deadline, ServerState
from nblauncher.planning.host import Host
from nblauncher.planning.plan import Details, Phase, Plan, Report, SomeFailed, Step
from nblauncher.supervisor import client, registry
from nblauncher.supervisor.client import Client
from nblauncher.supervisor.specs import ServerReport

GRACE = 10.0
"""Seconds that a server has to save and stop before everything in its control group is killed."""

RUNNING = (ServerState.READY, ServerState.STARTING, ServerState.QUEUED, ServerState.UNKNOWN)


def prepare(host: Host, usernames: Sequence[str], *, whole_class: bool) -> Plan:
    """Plan the end of what runs; for the whole class that includes front page and supervisor."""
    members = host.ledger.members(host.settings.course)
    with_class = has_class(host)
    running = {report.username for report in reports(host) if report.state in RUNNING}
    scheduled = pending.scheduled(host, datetime.now(timezone.utc)) if whole_class else ()
    wanted_up = {name for name, desired in host.course_ledger.desired().items() if desired != "down"}
    stopping = [name for name in usernames if name in members and (name in running or name in wanted_up)]
    return Plan(
        (
            Phase("what is scheduled", tuple(map(CancelScheduled, scheduled))),
            Phase("stop servers", steps(stopping) if stopping else ()),
            Phase("end the class", (EndClass(),) if whole_class and with_class else ()),
        )
    )


def steps(usernames: Sequence[str]) -> tuple[Step, ...]:
    """Stopping these students' servers, for `remove` as well."""
    return (StopServers(tuple(usernames)),)


@dataclass(frozen=True)
class CancelScheduled:
    """Deadlines of `retrieve --at` end with the class. A command that waits for one notices that it is gone."""

    deadline: Deadline
    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"cancel the capture of {self.deadline.name} at {times.short(self.deadline.at)}"

    def apply(self, host: Host) -> None:
        host.course_ledger.cancel_deadlines([self.deadline.name])


@dataclass(frozen=True)
class StopServers:
    """Record the desired state before stopping: a supervisor that is restarted in between must not start them."""

    usernames: tuple[str, ...]
    keeps_sessions: bool = False
    """A new server follows, in which the students are still signed in."""

    def describe(self) -> str:
        return f"stop {servers_of(self.usernames)}"

    def apply(self, host: Host) -> Mapping[str, Details]:
        host.course_ledger.set_desired(self.usernames, "down")
        supervisor = found_supervisor(host)
        if supervisor is None:
            return {}
        with supervisor:
            known = {report.username for report in supervisor.servers()}
            names = [name for name in self.usernames if name in known]
            stopped = supervisor.stop_servers(names, grace=GRACE, keeps_sessions=self.keeps_sessions)
        failures = {report.username: _words(report) for report in stopped if _goes_on(report)}
        if failures:
            raise SomeFailed(failures)
        return {report.username: _details(report) for report in stopped}


@dataclass(frozen=True)
class EndClass:
    """Stop front page and supervisor, which releases the ports."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "stop the front page and the supervisor"

    def apply(self, host: Host) -> None:
        end_class(host)


def student_details(host: Host, usernames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The state of each server that the supervisor still knows, for the report."""
    return {report.username: {"server": report.state.value} for report in reports(host) if report.username in usernames}


def summary(report: Report) -> str:
    """Processes that were left alone because we cannot prove that they are ours (hosts without cgroups); else empty."""
    left = {student.username: student.details.get("unproven") for student in report.students.values()}
    lines = [
        f"  {username}: {', '.join(map(str, pids))} may come from the server; nblauncher cannot prove it"
        for username, pids in left.items()
        if pids
    ]
    return "\n".join([f"Stopped {servers_of(report.done)}. Processes that were left alone:", *lines]) if lines else ""


def end_class(host: Host) -> None:
    supervisor = found_supervisor(host)
    if supervisor is not None:
        with supervisor:
            left = [report.username for report in supervisor.end(grace=GRACE) if report.state is ServerState.UNKNOWN]
        if left:
            raise HostError(
                f"the cluster did not confirm that these students' jobs have ended: {', '.join(sorted(left))}",
                "They are cancelled as soon as the controller answers. Run `nblauncher shutdown` again then.",
            )


def found_supervisor(host: Host) -> Client | None:
    """The supervisor, restarted if a killed one left something behind; None when there is no class."""
    return client.start(host.paths) if has_class(host) else None


def has_class(host: Host) -> bool:
    """Whether there is a supervisor, or what a killed one left: its socket, servers, or jobs, which outlive a boot."""
    return host.paths.supervisor_socket.exists() or bool(registry.left(host.paths))


def reports(host: Host) -> tuple[ServerReport, ...]:
    """The supervisor's reports; empty when there is none. Starts nothing."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return ()
    with supervisor:
        return supervisor.servers()


def servers_of(students: Sequence[object]) -> str:
    """`1 server`, `31 servers`."""
    return count_of(students, "server")


def count_of(things: Sequence[object], noun: str) -> str:
    return f"1 {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _details(report: ServerReport) -> Details:
    """`unproven`: on hosts without control groups, processes left alone because we cannot prove that they are ours."""
    return {"server": report.state.value, "unproven": list(report.unproven)}


def _goes_on(report: ServerReport) -> bool:
    return report.state in RUNNING or IS_GOING_ON in report.reason


def _words(report: ServerReport) -> str:
    return f"the server does not stop: {report.reason}" if report.state in RUNNING else report.reason
