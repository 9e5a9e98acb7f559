"""A class whose servers are jobs of a cluster: what cannot work is said before anything is submitted."""

from __future__ import annotations

from nblauncher.errors import RefusedError
from nblauncher.planning.host import Host
from nblauncher.supervisor.spawners import SLURM

_WHY = {
    "files": "every job would bring tls.key into its student's home",
    "off": "passwords and work would cross the cluster's network in the clear",
}


def require(host: Host) -> None:
    """RefusedError for settings that cannot be used together with notebook.spawner: slurm."""
    settings = host.settings
    if settings.notebook.spawner == SLURM and not host.frontend.is_proxy and settings.tls.mode in _WHY:
        raise RefusedError(
            f"tls.mode: {settings.tls.mode} does not work with notebook.spawner: slurm and web.frontend: direct: "
            f"{_WHY[settings.tls.mode]}",
            "Set tls.mode: class-ca, or web.frontend: nginx, which speaks TLS of the class to the nodes.",
        )
