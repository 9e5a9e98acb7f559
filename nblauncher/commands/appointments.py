"""What the supervisor of a running class is to start at which time."""

from __future__ import annotations

from dataclasses import dataclass

from nblauncher.commands import disks
from nblauncher.commands.pending import pending
from nblauncher.host import Host
from nblauncher.supervisor import client
from nblauncher.supervisor.appointments import Wanted


def wanted(host: Host) -> Wanted:
    """Snapshots as the config says; every moment whose work is not in the store yet, missed ones too."""
    found, _problems = pending(host)
    told = {(one.deadline.folder, int(one.deadline.at.timestamp())) for one in found}
    at = {int(one.at.timestamp()) for one in found}
    deadlines = tuple(sorted(told, key=lambda one: one[::-1]))
    own = tuple(
        sorted(
            (one.username, one.deadline.folder, int(one.at.timestamp())) for one in found if one.at != one.deadline.at
        )
    )
    return Wanted(host.settings.history.every, tuple(sorted(at)), deadlines, own, disks.is_watched(host))


def are_current(host: Host) -> bool:
    """Whether the supervisor keeps just these; one that is still to be started keeps none."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return wanted(host) == Wanted()
    with supervisor:
        return supervisor.appointments() == wanted(host)


def renew(host: Host) -> bool:
    """Tell the supervisor; False when none runs."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    with supervisor:
        supervisor.appointments(wanted(host))
    return True


@dataclass(frozen=True)
class MakeAppointments:
    """Snapshots and deadlines, while the class runs."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "remember when snapshots and deadlines are"

    def apply(self, host: Host) -> None:
        renew(host)
