"""The spawner `process`: one exec'd process per server, a child of the supervisor's."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from nblauncher import processes
from nblauncher.children import Child, fork_exec
from nblauncher.model import Handle
from nblauncher.spawners.protocol import Order, Started


class ProcessSpawner:
    """`python -I -m nblauncher.server`, by the interpreter that runs the supervisor."""

    def start(self, order: Order) -> Started:
        argv = [sys.executable, "-I", "-m", "nblauncher.server"]
        argv += ["--config", str(order.config), "--listen", ",".join(map(str, order.listening))]
        keep = [order.config, *order.listening]
        if order.certificate is not None and order.key is not None:
            argv += ["--tls-certificate", str(order.certificate), "--tls-key", str(order.key)]
            keep += [order.certificate, order.key]
        child = Child(order.account, tuple(argv), order.environment, tuple(keep), order.account.home, order.group)
        return Started(*fork_exec(child))

    def poll(self, handle: Handle) -> bool:
        return processes.is_running(handle)

    def stop(self, handle: Handle) -> None:
        pidfd = processes.open_handle(handle)
        if pidfd is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        finally:
            os.close(pidfd)
