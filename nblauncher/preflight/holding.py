"""What confines students on this host: limits, isolation, disk quotas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nblauncher.model import Limits
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.system import memory
from nblauncher.system.memory import Room

_WEAK = {
    "RLIMIT_DATA": "each process by itself only (RLIMIT_DATA): several together take more",
    "RLIMIT_NPROC": "by RLIMIT_NPROC, with what the student runs outside of the class",
    "": "by nothing: a busy student takes all that there is",
}


def limits(wanted: Limits, mechanism: Mapping[str, str], room: Room) -> Iterator[Finding]:
    """What enforces each limit. `mechanism` is from nblauncher.isolation.limits."""
    held = {"memory": wanted.memory, "cpus": wanted.cpus, "processes": wanted.processes}
    strong = [f"{name} by {mechanism[name]}" for name, value in held.items() if value and mechanism[name] not in _WEAK]
    if strong:
        yield ok("limits", ", ".join(strong))
    for name, value in held.items():
        if value and mechanism[name] in _WEAK:
            yield warning("limits", f"limits.{name} is held {_WEAK[mechanism[name]]}", "Boot with cgroups v2.")
        if not value:
            yield warning("limits", f"limits.{name} is none: one student can slow down all", "Set a limit.")
    if wanted.memory is not None and wanted.memory > room.total:
        yield warning(
            "limits",
            f"limits.memory is {memory.words(wanted.memory)} and the host has {memory.words(room.total)}",
            "Set it lower: one student could use up the host.",
        )


def disk(wanted: Limits, *, has_quotas: bool, creates: bool) -> Finding | None:
    """None when there is no limit."""
    if wanted.disk is None:
        return None
    if has_quotas and creates:
        return ok("disk quota", f"{memory.words(wanted.disk)} for each student, held by the file system")
    why = "the file system of the homes has no quotas" if creates else "the accounts are not ours"
    return warning(
        "disk quota",
        f"{why}: limits.disk is only watched, and shown by `status`",
        "Mount it with usrquota (ext4: tune2fs -O quota; XFS: uquota).",
    )


def isolation(is_wanted: bool, objection: str, *, hides_processes: bool) -> Finding:
    """`objection` is from nblauncher.isolation.namespaces, as root."""
    if not is_wanted:
        return warning(
            "isolation", "off: students share /tmp and see each other's processes", "Remove `isolation: false`."
        )
    if objection:
        return problem("isolation", f"this host cannot: {objection}", "Set `isolation: false`, or use another host.")
    if not hides_processes:
        return warning(
            "isolation",
            "private temporary folders; this Linux is older than 5.8, so students see each other's processes",
            "Use a newer kernel.",
        )
    return ok("isolation", "private /tmp, /var/tmp, /dev/shm and /proc for each student")
