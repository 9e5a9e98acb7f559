"""The spawner `process`: one exec'd process per server, a child of the supervisor."""

from __future__ import annotations

import signal
import sys

from nblauncher.errors import HostError
from nblauncher.isolation.spawn import Child, fork_exec
from nblauncher.model import Handle, ServerHandle
from nblauncher.supervisor.spawners.protocol import Answer, Order, Started
from nblauncher.system import processes


class ProcessSpawner:
    """`python -I -m nblauncher.server`, by the interpreter that runs the supervisor."""

    is_remote = False

    def start(self, order: Order, answer: Answer) -> None:
        argv = [sys.executable, "-I", "-m", "nblauncher.server"]
        argv += ["--config", str(order.config), "--listen", ",".join(map(str, order.listening))]
        argv += ["--news", str(order.news)]
        keep = [order.config, order.news, *order.listening]
        if order.certificate is not None and order.key is not None:
            argv += ["--tls-certificate", str(order.certificate), "--tls-key", str(order.key)]
            keep += [order.certificate, order.key]
        child = Child(order.account, tuple(argv), order.environment, tuple(keep), order.account.home, order.sandbox)
        try:
            started = Started(*fork_exec(child))
        except HostError as error:
            answer(error)
        else:
            answer(started)

    def poll(self, handle: ServerHandle) -> bool:
        return isinstance(handle, Handle) and processes.is_running(handle)

    def stop(self, handle: ServerHandle) -> None:
        if isinstance(handle, Handle):
            processes.send_signal(handle, signal.SIGTERM)

    def kill(self, handle: ServerHandle) -> None:
        if isinstance(handle, Handle):
            processes.send_signal(handle, signal.SIGKILL)
