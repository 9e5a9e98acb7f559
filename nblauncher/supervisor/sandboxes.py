"""What holds each student's processes, as the supervisor makes it before a server starts and takes it away after."""

from __future__ import annotations

import logging
from pathlib import Path

from nblauncher import cgroups, limits, memory, processes, runtime_folders
from nblauncher.cgroups import Group, Groups
from nblauncher.model import Handle, Limits
from nblauncher.namespaces import Namespaces
from nblauncher.sandbox import Sandbox
from nblauncher.spawners import Order

log = logging.getLogger(__name__)

_OF_THE_HOST = 8
"""Where memory is not limited a temporary folder takes this part of the host's, at most."""


class Sandboxes:
    """`runtime` holds the students' JUPYTER_RUNTIME_DIRs."""

    def __init__(self, groups: Groups, runtime: Path) -> None:
        self._groups, self._runtime = groups, runtime
        self._namespaces = Namespaces(runtime)
        if missing := frozenset(cgroups.CONTROLLERS) - cgroups.hand_down(groups):
            log.warning("this host has no control groups for %s: limits are those of each process", sorted(missing))

    def group(self, uid: int) -> Group:
        return self._groups.of_student(uid)

    def provide(self, order: Order) -> Sandbox:
        """Everything that a server needs to begin in. HostError when the host says no."""
        account, wanted = order.account, order.sandbox.limits
        runtime_folders.provide(self._runtime, account)
        group = self.group(account.uid)
        group.create()
        group.show_to(account.gid)
        limits.apply(group, wanted)
        # After the runtime folder, of which the namespace gets a copy where mounts do not spread by themselves.
        namespace = self._namespaces.provide(account.uid, _temporary(wanted)) if order.is_isolated else None
        return Sandbox(group, wanted, namespace)

    def of_running(self, order: Order, handle: Handle | None) -> Sandbox | None:
        """What a server is in that runs, perhaps an adopted one; nothing of it is changed. None when it should have a
        mount namespace, and is in none that root made.
        """
        uid = order.account.uid
        if handle is not None and processes.is_running(handle):
            self._namespaces.adopt(uid, handle.pid)
        namespace = self._namespaces.path(uid)
        if namespace is None and order.is_isolated:
            return None
        return Sandbox(self.group(uid), order.sandbox.limits, namespace)

    def take_away(self, uid: int, *, keeps_runtime: bool) -> None:
        """After the last process is gone. Who is signed in stays so where the runtime folder is kept."""
        self.group(uid).remove()
        self._namespaces.take_away(uid)
        if not keeps_runtime:
            runtime_folders.take_away(self._runtime, uid)

    def close(self) -> None:
        """The class is over."""
        self._namespaces.close()
        runtime_folders.take_all_away(self._runtime)
        self._groups.remove()


def _temporary(wanted: Limits) -> int:
    """Bytes that each temporary folder may take."""
    return memory.room().total // _OF_THE_HOST if wanted.memory is None else wanted.memory // 2
