"""Which locks a command holds while it changes the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nblauncher.ledger import locked
from nblauncher.planning.host import Host, course_lock, host_lock


@contextmanager
def holding(
    host: Host, lock: Path | None = None, *, touches_accounts: bool = False, makes_folder: bool = True
) -> Iterator[Host]:
    """The host with the course's lock (or another `lock` of the course) held, and the one of this host's accounts.

    BusyError when another process holds one of them; HostError without `makes_folder` when the course is gone.
    """
    with ExitStack() as stack:
        course = f"course {host.settings.course}"
        locks = [stack.enter_context(locked(lock or course_lock(host), course, makes_folder=makes_folder))]
        if touches_accounts:
            locks.append(stack.enter_context(locked(host_lock(host), "this host's accounts")))
        yield dataclasses.replace(host, locks=tuple(locks))
