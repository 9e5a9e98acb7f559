"""Who starts, polls and stops notebook servers. `Spawner` is one of the three seams.

`process` execs each server; `forkserver` forks each from a process that has loaded everything. `KernelForkServer` keeps
the process that kernels are forked from.
"""

from nblauncher.spawners.forkserver import ForkServerSpawner
from nblauncher.spawners.kernel_fork_server import Forking, KernelForkServer, Preload
from nblauncher.spawners.process import ProcessSpawner
from nblauncher.spawners.protocol import (
    Answer,
    EventLoop,
    Order,
    Spawner,
    Started,
    server_environment,
)

__all__ = [
    "Answer",
    "EventLoop",
    "ForkServerSpawner",
    "Forking",
    "KernelForkServer",
    "Order",
    "Preload",
    "ProcessSpawner",
    "Spawner",
    "Started",
    "server_environment",
]
