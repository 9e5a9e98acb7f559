"""Start, poll and stop notebook servers. `Spawner` is one of the three seams.

`process` execs each server; `forkserver` forks each from a process that has loaded everything; `slurm` submits each as
a job. `KernelForkServer` keeps the process from which kernels are forked.
"""

from nblauncher.supervisor.spawners.forkserver import ForkServerSpawner
from nblauncher.supervisor.spawners.kernel_fork_server import Forking, KernelForkServer, Preload
from nblauncher.supervisor.spawners.process import ProcessSpawner
from nblauncher.supervisor.spawners.protocol import Answer, EventLoop, Order, Spawner, Started, server_environment
from nblauncher.supervisor.spawners.slurm import SLURM, SlurmSpawner

__all__ = [
    "SLURM",
    "Answer",
    "EventLoop",
    "ForkServerSpawner",
    "Forking",
    "KernelForkServer",
    "Order",
    "Preload",
    "ProcessSpawner",
    "SlurmSpawner",
    "Spawner",
    "Started",
    "server_environment",
]
