"""Who starts, polls and stops notebook servers. `Spawner` is one of the three seams.

`process` execs each server; `forkserver` forks each from a process that has loaded everything.
"""

from nblauncher.spawners.forkserver import ForkServerSpawner
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
    "Order",
    "ProcessSpawner",
    "Spawner",
    "Started",
    "server_environment",
]
