"""The schedule of a running class: what its supervisor starts at which time."""

from __future__ import annotations

from dataclasses import dataclass

from nblauncher.commands import disks
from nblauncher.commands.deadlines.pending import pending
from nblauncher.planning.host import Host
from nblauncher.supervisor import client
from nblauncher.supervisor.schedule import Wanted


def wanted(host: Host) -> Wanted:
    """Snapshots as configured, and every moment without work in the store yet, including missed ones."""
    found, _problems = pending(host)
    times = {(moment.deadline.folder, int(moment.deadline.at.timestamp())) for moment in found}
    at = {int(moment.at.timestamp()) for moment in found}
    deadlines = tuple(sorted(times, key=lambda pair: pair[::-1]))
    own = tuple(
        sorted(
            (moment.username, moment.deadline.folder, int(moment.at.timestamp()))
            for moment in found
            if moment.at != moment.deadline.at
        )
    )
    return Wanted(host.settings.history.every, tuple(sorted(at)), deadlines, own, disks.is_watched(host))


def is_current(host: Host) -> bool:
    """Whether the supervisor has this schedule; one that is not running yet has none."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return wanted(host) == Wanted()
    with supervisor:
        return supervisor.appointments() == wanted(host)


def renew(host: Host) -> bool:
    """Send the schedule to the supervisor; False when none runs."""
    supervisor = client.connect(host.paths)
    if supervisor is None:
        return False
    with supervisor:
        supervisor.appointments(wanted(host))
    return True


@dataclass(frozen=True)
class SetSchedule:
    """Snapshots and deadlines, while the class runs."""

    usernames: tuple[str, ...] = ()

    def describe(self) -> str:
        return "remember when snapshots and deadlines are"

    def apply(self, host: Host) -> None:
        renew(host)
