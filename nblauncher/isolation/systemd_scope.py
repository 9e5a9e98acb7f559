"""A course's systemd scope: the supervisor moves into it, and the control groups below it are ours. Runs as root.

Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import time
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Groups, Kind, words_of
from nblauncher.system import processes

_DEADLINE = 10.0


def enter(groups: Groups, pid: int) -> Groups:
    """Move the supervisor into the course's scope, which systemd makes if it does not exist.

    Other kinds need nothing. If systemd refuses, the course gets no groups: the cgroup tree belongs to systemd.
    """
    if groups.kind is not Kind.SCOPE:
        return groups
    if not groups.root.is_dir():
        try:
            _start(groups.root.name, pid)
            _wait_until_in(groups.root, pid)
        except HostError:
            return Groups(Kind.NONE)
    own = groups.group("supervisor")
    own.create()
    own.enter(pid)
    return groups


def _start(name: str, pid: int) -> None:
    """Ask systemd for a scope around the supervisor; Delegate gives us the tree below it.

    Without TasksMax a whole class would get what systemd allows one unit (systemd-system.conf(5), DefaultTasksMax=).
    """
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    properties = (
        ("PIDs", "au", "1", str(pid)),
        ("Delegate", "b", "true"),
        ("TasksMax", "t", str(2**64 - 1)),
        ("Description", "s", "A Jupyter class (nblauncher)"),
        ("CollectMode", "s", "inactive-or-failed"),
    )
    flat = (word for triple in properties for word in triple)
    signature = ("ssa(sv)a(sa(sv))", name, "fail", str(len(properties)))
    processes.run(["busctl", "call", *manager, "StartTransientUnit", *signature, *flat, "0"])


def _wait_until_in(folder: Path, pid: int) -> None:
    """systemd makes the folder before it moves the process. If we continued before that, systemd would move the process
    back out of a group below, and the scope could not enable controllers ("no internal processes").
    """
    deadline = time.monotonic() + _DEADLINE
    while str(pid) not in words_of(folder / "cgroup.procs"):
        if time.monotonic() > deadline:
            raise HostError(f"systemd did not move process {pid} into {folder}")
        time.sleep(0.02)
