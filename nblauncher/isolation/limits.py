"""Limit what a student's processes take together, and count how often they reached a limit.

Memory, CPU and processes are limited where the student's group has the controller (v2, or v1 beside it); resource
limits of each process apply everywhere (setrlimit(2)). Everything here runs as root, except `own_memory_kills` and
`charged_to_job`, which a student's server calls.
Sources: Documentation/admin-guide/cgroup-v2.rst; cgroup-v1/memory.rst, pids.rst; scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Group, Groups, Kind
from nblauncher.isolation.controllers import offered
from nblauncher.model import Limits
from nblauncher.system import memory

OPEN_FILES = 4096
"""The soft limit; the hard one stays the host's."""

_OF_A_SERVICE = {
    "RLIMIT_NOFILE": (1024, 524_288),
    "RLIMIT_STACK": (8 << 20, resource.RLIM_INFINITY),
    "RLIMIT_MEMLOCK": (8 << 20, 8 << 20),
    **dict.fromkeys(
        ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_RSS"),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ),
}
"""The least soft and hard limits (systemd.exec(5) and the kernel's defaults)."""

SPARE_PROCESSES = 128
"""RLIMIT_NPROC counts all processes of a uid: so many more are allowed for logins and editors."""

_PERIOD = 100_000
"""Microseconds in which a student gets their part of the CPUs."""

OURS, SERVER, KERNEL = 0, 100, 400
"""oom_score_adj in a class: the OOM killer ends students' processes before ours, and a kernel before its server, unless
the server takes 30 % of the memory more (proc(5)). Any process may raise its own score.
"""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How often a student's group has reached its limits."""

    memory_kills: int = 0
    """Processes that the OOM killer ended because the student's memory was used up."""
    refused_processes: int = 0
    throttled_seconds: float = 0.0
    """For how long its processes were throttled."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def words(self, limits: Limits) -> list[str]:
        """The lines for `status`. Throttling for less than ten seconds is left out."""
        found = []
        if self.memory_kills:
            room = "" if limits.memory is None else f" of {memory.words(limits.memory)}"
            found.append(f"memory{room} ran out {_times(self.memory_kills)}")
        if self.refused_processes:
            found.append(f"wanted more than {limits.processes} processes {_times(self.refused_processes)}")
        if self.throttled_seconds >= 10:
            found.append(f"wanted more than {limits.cpus:g} CPUs for {self.throttled_seconds:.0f} s")
        return found


def apply(group: Group, limits: Limits) -> None:
    """Set the limits of this existing group. HostError when the host rejects one."""
    try:
        for file, value in _settings(group, limits):
            file.write_text(value)
    except OSError as error:
        raise HostError(
            f"the limits of {group.path.name} cannot be set: {error.strerror} ({error.filename})"
        ) from error


def pressure(group: Group) -> Pressure:
    """How often this group reached its limits; zeros without a controller, or without the group."""
    return Pressure(
        _count(_memory_events(group), "oom_kill"),
        _count(_file_of(group, "pids", "pids.events", "pids.events"), "max"),
        _throttled(group),
    )


def charged_memory(group: Group) -> int | None:
    """Bytes of anonymous and shared memory that count for this group's limit, without cached files, which the kernel
    takes back when memory is short. None without a controller, or without the group.
    """
    file = _file_of(group, "memory", "memory.stat", "memory.stat")
    return _charged(file, is_v1="memory" in dict(group.beside))


def charged_to_job(number: int) -> int | None:
    """The same for the job of Slurm in which the caller runs. None if Slurm made no group for it that counts memory."""
    for folder, is_v1 in _own_groups():
        for group in (folder, *folder.parents):
            if group.name == f"job_{number}":
                return _charged(group / "memory.stat", is_v1=is_v1)
    return None


def counts_memory_kills(group: Group) -> bool:
    """Whether this group counts the processes in it that the OOM killer ended, for its own limit or the host's
    (Linux: cgroup-v2.rst memory.events; memory.oom_control since 4.13).
    """
    try:
        return "oom_kill " in _memory_events(group).read_text()
    except OSError:
        return False


def settle(group: Group, limits: Limits, score: int = OURS) -> None:
    """Set the resource limits of the calling process, a forked child as root, and of its descendants.

    The data of each process is limited only if the group has no memory controller: a kernel may reserve more memory
    than it uses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES, is_hard=False)
    if limits.processes is not None:
        _lower(resource.RLIMIT_NPROC, limits.processes + SPARE_PROCESSES)
    if limits.memory is not None and not _has_memory_controller(group):
        _lower(resource.RLIMIT_DATA, limits.memory)
    with contextlib.suppress(OSError):
        _write_score(score)


def lift() -> list[str]:
    """Give the calling process, as root, and its descendants the limits of a service, whatever `ulimit` set in the
    administrator's shell: students' kernels could not live with less.

    Returns the hard limits that could not be raised (in a container root may not); the soft limits equal them then.
    """
    kept = []
    for name, (soft, hard) in _OF_A_SERVICE.items():
        which = getattr(resource, name)
        was_soft, was_hard = resource.getrlimit(which)
        wanted = _higher(soft, was_soft), _higher(hard, was_hard)
        try:
            resource.setrlimit(which, wanted)
        except (OSError, ValueError):
            resource.setrlimit(which, (_lower_of(wanted[0], was_hard), was_hard))
            kept.append(name)
    return kept


def protect() -> None:
    """Make the calling process, as root, one of the last that the OOM killer ends (proc(5))."""
    with contextlib.suppress(OSError):  # in a container root may not
        _write_score(-900)


def go_first() -> None:
    """Let the OOM killer end the calling process, a kernel, before the student's server."""
    with contextlib.suppress(OSError):
        _write_score(KERNEL)


def mechanism(groups: Groups) -> dict[str, str]:
    """What enforces each limit on this host: memory, cpus, processes; looks only."""
    beside, has = dict(groups.beside), offered(groups)

    def by(controller: str, floor: str) -> str:
        if controller in beside:
            return "cgroup v1"
        return groups.kind.value if controller in has else floor

    return {
        "memory": by("memory", "RLIMIT_DATA"),
        "cpus": by("cpu", ""),
        "processes": by("pids", "RLIMIT_NPROC"),
    }


def own_memory_kills() -> int:
    """How many processes of the caller's group the OOM killer has ended; 0 where that is not counted."""
    for folder, is_v1 in _own_groups():
        return _count(folder / ("memory.oom_control" if is_v1 else "memory.events"), "oom_kill")
    return 0


def _own_groups() -> Iterator[tuple[Path, bool]]:
    """The caller's groups that may count memory, and whether they are of v1: a hierarchy of that controller first."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return
    for _number, controllers, path in sorted(lines, key=lambda line: "memory" not in line[1].split(",")):
        is_v1 = "memory" in controllers.split(",")
        if controllers and not is_v1:
            continue
        kind = "cgroup" if is_v1 else "cgroup2"
        for mount in mounts:
            if mount[2] == kind and (not is_v1 or "memory" in mount[3].split(",")):
                yield Path(mount[1] + path), is_v1
                break


def _charged(file: Path, *, is_v1: bool) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    counted = ("total_rss", "total_shmem") if is_v1 else ("anon", "shmem")
    sizes = dict(line.split(" ", 1) for line in lines)
    return sum(int(sizes[key]) for key in counted) if sizes.keys() >= set(counted) else None


def _settings(group: Group, limits: Limits) -> Iterator[tuple[Path, str]]:
    """Files, and what to write to them."""
    if limits.memory is not None:
        v1 = dict(group.beside).get("memory")
        if v1 is not None:
            yield from _in_v1_order(v1, limits.memory)
        elif (file := group.path / "memory.max").exists():
            yield file, str(limits.memory)
            if (swap := group.path / "memory.swap.max").exists():
                yield swap, "0"
    if limits.cpus is not None:
        quota = round(limits.cpus * _PERIOD)
        v1 = dict(group.beside).get("cpu")
        if v1 is not None:
            yield v1 / "cpu.cfs_period_us", str(_PERIOD)
            yield v1 / "cpu.cfs_quota_us", str(quota)
        elif (file := group.path / "cpu.max").exists():
            yield file, f"{quota} {_PERIOD}"
    if limits.processes is not None:
        file = dict(group.beside).get("pids", group.path) / "pids.max"
        if file.exists():
            yield file, str(limits.processes)


def _in_v1_order(folder: Path, size: int) -> Iterator[tuple[Path, str]]:
    """The limit with swap must never be below that without it: which is written first depends on the old limit."""
    both = [folder / "memory.limit_in_bytes"]
    swap = folder / "memory.memsw.limit_in_bytes"
    if swap.exists():
        is_more = size > int(swap.read_text())
        both = [swap, *both] if is_more else [*both, swap]
    yield from ((file, str(size)) for file in both)


def _file_of(group: Group, controller: str, v2: str, v1: str) -> Path:
    beside = dict(group.beside)
    return beside[controller] / v1 if controller in beside else group.path / v2


def _memory_events(group: Group) -> Path:
    return _file_of(group, "memory", "memory.events", "memory.oom_control")


def _has_memory_controller(group: Group) -> bool:
    return "memory" in dict(group.beside) or (group.path / "memory.max").exists()


def _count(file: Path, name: str) -> int:
    """The number after this word."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def _lower_of(one: int, other: int) -> int:
    return max(one, other) if resource.RLIM_INFINITY in (one, other) else min(one, other)


def _higher(one: int, other: int) -> int:
    return resource.RLIM_INFINITY if resource.RLIM_INFINITY in (one, other) else max(one, other)


def _throttled(group: Group) -> float:
    if group.kind is Kind.NONE and not group.beside:
        return 0.0
    file = _file_of(group, "cpu", "cpu.stat", "cpu.stat")
    return _count(file, "throttled_usec") / 1e6 or _count(file, "throttled_time") / 1e9


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _lower(which: int, wanted: int, *, is_hard: bool = True) -> None:
    """Set a limit, but never above the host's hard limit."""
    _soft, hard = resource.getrlimit(which)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(which, (soft, soft if is_hard else hard))


def _write_score(score: int) -> None:
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))
        file.flush()
