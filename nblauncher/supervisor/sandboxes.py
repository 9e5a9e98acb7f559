"""What confines each student's processes: made before a server starts, removed after it has ended."""

from __future__ import annotations

import logging
from pathlib import Path

from nblauncher.isolation import cgroups, controllers, limits, runtime_folders
from nblauncher.isolation.cgroups import Group, Groups
from nblauncher.isolation.namespaces import Namespaces
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Handle, Limits
from nblauncher.supervisor.spawners import Order
from nblauncher.system import memory, processes

log = logging.getLogger(__name__)

_OF_THE_HOST = 8
"""Where memory is not limited, a temporary folder may take this fraction of the host's."""


class Sandboxes:
    """`runtime` holds the students' JUPYTER_RUNTIME_DIRs."""

    def __init__(self, groups: Groups, runtime: Path) -> None:
        self._groups, self._runtime = groups, runtime
        self._namespaces = Namespaces(runtime)
        if missing := frozenset(cgroups.CONTROLLERS) - controllers.hand_down(groups):
            log.warning("this host has no control groups for %s: limits are those of each process", sorted(missing))

    def group(self, uid: int) -> Group:
        return self._groups.of_student(uid)

    def provide(self, order: Order) -> Sandbox:
        """Make all that a server starts in. HostError when the host refuses."""
        account, wanted = order.account, order.sandbox.limits
        runtime_folders.provide(self._runtime, account)
        group = self.group(account.uid)
        group.create()
        group.show_to(account.gid)
        limits.apply(group, wanted)
        # After the runtime folder: where mounts do not propagate, the namespace gets a copy of it.
        namespace = self._namespaces.provide(account.uid, _temporary(wanted)) if order.is_isolated else None
        return Sandbox(group, wanted, namespace)

    def of_running(self, order: Order, handle: Handle | None) -> Sandbox | None:
        """The sandbox of a running server, which may be an adopted one; nothing of it is changed. None when it should
        have a mount namespace, and is in none that root made.
        """
        uid = order.account.uid
        if handle is not None and processes.is_running(handle):
            self._namespaces.adopt(uid, handle.pid)
        namespace = self._namespaces.path(uid)
        if namespace is None and order.is_isolated:
            return None
        return Sandbox(self.group(uid), order.sandbox.limits, namespace)

    def take_away(self, uid: int, *, keeps_runtime: bool) -> None:
        """After the last process is gone. Sign-ins stay valid as long as the runtime folder is kept."""
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
