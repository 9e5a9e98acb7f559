"""What the supervisor reports about a student's server."""

from __future__ import annotations

from nblauncher.isolation import limits
from nblauncher.isolation.cgroups import Kind
from nblauncher.supervisor.doings import SignIns
from nblauncher.supervisor.seat import Seat
from nblauncher.supervisor.specs import ServerReport


def server_report(seat: Seat, sign_ins: SignIns) -> ServerReport:
    return ServerReport(
        username=seat.username,
        uid=seat.uid,
        port=seat.port,
        state=seat.state,
        handle=seat.handle,
        reason=seat.reason,
        group=str(seat.group.path) if seat.group.kind is not Kind.NONE else "",
        started_at=seat.started_at,
        last_lines=seat.last_lines,
        unproven=seat.unproven,
        pressure=_pressure(seat),
        kernels=seat.doings.kernels,
        busy_kernels=seat.doings.busy,
        saved_at=seat.doings.saved_at,
        used_at=seat.doings.used_at,
        signed_in_at=sign_ins.at(seat.username, seat.uid),
    )


def _pressure(seat: Seat) -> tuple[str, ...]:
    """Which limits the student ran into, in words; for a server that is gone they are gone with its group."""
    if seat.order is None or not seat.is_up:
        return ()
    found = limits.pressure(seat.group).words(seat.order.sandbox.limits)
    if seat.output is not None and seat.output.is_flooded:
        found.append("floods the log")
    return tuple(found)
