"""What a cluster has and demands: partitions, nodes, a reservation, accounting. Only asks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from nblauncher.errors import HostError
from nblauncher.model import SlurmSettings
from nblauncher.slurm import tools
from nblauncher.slurm.jobs import seconds

_IMPLIES_ASSOCIATIONS = frozenset({"associations", "limits", "qos", "safe", "all", "wckeys"})
_USABLE = ("idle", "mixed", "allocated", "completing", "planned")


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    cpus: int
    megabytes: int
    state: str

    @property
    def is_usable(self) -> bool:
        """A star says that it does not answer at the moment."""
        return self.state.rstrip("+-~#$@^!%").startswith(_USABLE) and not self.state.endswith("*")


@dataclass(frozen=True, slots=True)
class Partition:
    """Limits are None where there are none."""

    name: str
    is_default: bool
    state: str
    max_minutes: int | None
    default_minutes: int | None
    max_megabytes: int | None
    """Per node."""
    max_cpus: int | None
    """Per node."""
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Reservation:
    name: str
    is_active: bool
    users: frozenset[str]
    """Empty: whoever is in `accounts` or `groups`."""
    others: str
    """Accounts and groups that may use it."""


@dataclass(frozen=True, slots=True)
class Site:
    version: tuple[int, ...]
    """Of Slurm's commands on this host."""
    config: Mapping[str, str] = field(default_factory=dict)
    """As `scontrol show config` prints it."""
    partitions: Mapping[str, Partition] = field(default_factory=dict)
    reservation: Reservation | None = None
    """The one of the settings; None if there is none of that name."""

    @property
    def enforces_associations(self) -> bool:
        """Whether a user needs an entry in the accounting before Slurm takes a job."""
        words = self.config.get("AccountingStorageEnforce", "none").lower().split(",")
        return bool(_IMPLIES_ASSOCIATIONS & set(words))

    @property
    def kills_whatever_a_job_started(self) -> bool:
        return self.config.get("ProctrackType", "").endswith("/cgroup")

    @property
    def holds_memory(self) -> bool:
        return (
            "cgroup" in self.config.get("TaskPlugin", "") and self.config.get("ConstrainRAMSpace", "").lower() == "yes"
        )

    @property
    def remembers_ended_jobs_for(self) -> int:
        """Seconds."""
        words = self.config.get("MinJobAge", "300").split()
        return int(words[0]) if words and words[0].isdecimal() else 300

    def wanted(self, settings: SlurmSettings) -> list[Partition]:
        """The partitions that jobs go to; names that do not exist are left out."""
        if settings.partition:
            return [self.partitions[name] for name in settings.partition.split(",") if name in self.partitions]
        return [one for one in self.partitions.values() if one.is_default]


def survey(settings: SlurmSettings) -> Site:
    """Ask the controller. HostError in words for the administrator if it cannot be asked; RefusedError if the settings
    name a file or programs that others can change.
    """
    tools.refuse_untrusted(settings)
    version = tools.version(settings)
    tools.ping(settings)
    nodes = tools.call(settings, "sinfo", "--noheader", "--all", "--Node", "--format=%N|%R|%c|%m|%T")
    return Site(
        version,
        read_config(tools.call(settings, "scontrol", "show", "config")),
        read_partitions(tools.call(settings, "scontrol", "show", "partition", "--all", "--oneliner"), nodes),
        _reservation(settings),
    )


def without_association(settings: SlurmSettings, usernames: Collection[str], cluster: str = "") -> list[str]:
    """Those from whom the accounting would take no job, with slurm.account if there is one."""
    if not usernames:
        return []
    which = ["where", f"user={','.join(sorted(usernames))}"]
    if settings.account:
        which.append(f"account={settings.account}")
    if cluster:
        which.append(f"cluster={cluster}")  # the accounting may be that of several clusters
    listed = tools.call(settings, "sacctmgr", "-n", "-P", "list", "associations", *which, "format=user", timeout=30.0)
    return sorted(set(usernames) - {line.strip() for line in listed.splitlines()})


def read_config(text: str) -> dict[str, str]:
    pairs = (re.fullmatch(r"(\S+)\s*= (.*)", line.strip()) for line in text.splitlines())
    return {pair[1]: pair[2].strip() for pair in pairs if pair}


def read_partitions(text: str, nodes: str) -> dict[str, Partition]:
    """From `scontrol show partition` and from sinfo's lines `node|partition|cpus|megabytes|state`."""
    found: dict[str, list[Node]] = {}
    for line in nodes.splitlines():
        columns = line.strip().split("|")
        if len(columns) == 5:
            name, partition, cpus, megabytes, state = columns
            found.setdefault(partition, []).append(Node(name, _whole(cpus), _whole(megabytes), state))
    partitions = {}
    for fields in map(_fields, text.splitlines()):
        if "PartitionName" in fields:
            name = fields["PartitionName"]
            partitions[name] = Partition(
                name,
                fields.get("Default") == "YES",
                fields.get("State", ""),
                _minutes(fields.get("MaxTime", "")),
                _minutes(fields.get("DefaultTime", "")),
                _limit(fields.get("MaxMemPerNode", "")),
                _limit(fields.get("MaxCPUsPerNode", "")),
                tuple(found.get(name, ())),
            )
    return partitions


def read_reservation(text: str) -> Reservation | None:
    fields = _fields(text)
    if "ReservationName" not in fields:
        return None
    users = fields.get("Users", "(null)")
    others = [value for key in ("Accounts", "Groups") if (value := fields.get(key, "(null)")) != "(null)"]
    return Reservation(
        fields["ReservationName"],
        fields.get("State") == "ACTIVE",
        frozenset() if users == "(null)" else frozenset(users.split(",")),
        ",".join(others),
    )


def _reservation(settings: SlurmSettings) -> Reservation | None:
    if not settings.reservation:
        return None
    try:
        return read_reservation(tools.call(settings, "scontrol", "show", "res", settings.reservation, "--oneliner"))
    except HostError as error:
        if "not found" in error.problem:
            return None
        raise


def _fields(line: str) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in line.split())}


def _minutes(text: str) -> int | None:
    limit = seconds(text)
    return None if limit is None else limit // 60


def _limit(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _whole(text: str) -> int:
    """sinfo writes `16+` where it has summed up different nodes."""
    digits = re.match(r"[0-9]+", text)
    return int(digits[0]) if digits else 0
