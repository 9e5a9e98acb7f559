"""Who starts, polls and stops notebook servers. `Spawner` is one of the three seams; `process` execs each server."""

from nblauncher.spawners.process import ProcessSpawner
from nblauncher.spawners.protocol import Order, Spawner, Started, server_environment

__all__ = ["Order", "Spawner", "Started", "choose", "server_environment"]


def choose(name: str) -> Spawner:
    """The spawner of this name (notebook.spawner). KeyError for another name."""
    return {"process": ProcessSpawner}[name]()
