"""What the supervisor reports about a student's server."""

from __future__ import annotations

from datetime import datetime

from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Kind
from nblauncher.model import Handle, JobHandle, ServerState
from nblauncher.supervisor.doings import SignIns, now
from nblauncher.supervisor.jobs import NEARLY_OVER
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.specs import ServerReport


def server_report(seat: Seat, sign_ins: SignIns) -> ServerReport:
    return ServerReport(
        username=seat.username,
        uid=seat.uid,
        port=seat.port,
        state=ServerState.UNKNOWN if is_unknown(seat) else seat.shown_state,
        handle=seat.handle if isinstance(seat.handle, Handle) else None,
        reason=_reason(seat),
        group=str(seat.group.path) if seat.group.kind is not Kind.NONE and not seat.is_remote else "",
        started_at=seat.started_at,
        last_lines=seat.last_lines,
        unproven=seat.unproven,
        pressure=_pressure(seat),
        kernels=seat.doings.kernels,
        busy_kernels=seat.doings.busy,
        saved_at=seat.doings.saved_at,
        used_at=seat.doings.used_at,
        signed_in_at=sign_ins.at(seat.username, seat.uid),
        job=seat.handle.job if isinstance(seat.handle, JobHandle) else None,
        node=seat.cluster.node if seat.is_remote else "",
        memory=seat.doings.memory,
        is_suspended=seat.is_remote and seat.cluster.is_suspended,
    )


def is_unknown(seat: Seat) -> bool:
    """Whether only the cluster could say how the server is, and does not answer."""
    return isinstance(seat.handle, JobHandle) and bool(seat.cluster.silent_since)


def queue_words(seat: Seat) -> str:
    """The place of a waiting job, why it waits, and when the cluster expects to start it."""
    cluster = seat.cluster
    if seat.state is not ServerState.QUEUED:
        return ""
    place = f"place {cluster.place} in the cluster's queue" if cluster.place else "in the cluster's queue"
    start = ""
    if cluster.starts_at > now():
        start = f", expected to start at {datetime.fromtimestamp(cluster.starts_at).astimezone():%H:%M}"
    return f"{place}: {cluster.why}{start}" if cluster.why else f"{place}{start}"


def _reason(seat: Seat) -> str:
    silent = ""
    if is_unknown(seat):
        since = f"{datetime.fromtimestamp(seat.cluster.silent_since).astimezone():%H:%M}"
        silent = f"Slurm's controller has not answered since {since}"
        if seat.state is not ServerState.UNKNOWN:
            silent += f"; before, the server was {seat.state.value}"
    closed = f"port {seat.port} is not open" if seat.shown_state is not seat.state else ""
    return "; ".join(filter(None, (silent, closed, seat.reason, queue_words(seat))))


def _pressure(seat: Seat) -> tuple[str, ...]:
    """Which limits the student ran into, in words; for a server that is gone they are gone with its group."""
    if seat.is_remote:
        return _of_the_job(seat) if seat.is_up else ()
    if seat.order is None or not seat.is_up:
        return ()
    found = limits.pressure(seat.group).words(seat.order.sandbox.limits)
    if seat.output is not None and seat.output.is_flooded:
        found.append("floods the log")
    return tuple(found)


def _of_the_job(seat: Seat) -> tuple[str, ...]:
    cluster = seat.cluster
    left = cluster.left
    nearly = f"its time limit is reached in {max(1, left // 60)} min" if left is not None and left < NEARLY_OVER else ""
    cut_off = f"the cluster does not reach its node {cluster.node}" if cluster.is_cut_off else ""
    return tuple(filter(None, (nearly, cut_off, cluster.trouble)))
