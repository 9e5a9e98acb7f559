"""A class whose servers are jobs of a cluster: what cannot work is said before anything is submitted."""

from __future__ import annotations

from nblauncher.errors import RefusedError
from nblauncher.planning.host import Host
from nblauncher.supervisor.spawners import SLURM


def require(host: Host) -> None:
    """RefusedError for settings that cannot be used together with notebook.spawner: slurm."""
    settings = host.settings
    if settings.notebook.spawner != SLURM:
        return
    if host.frontend.is_proxy:
        raise RefusedError(
            "notebook.spawner: slurm does not work with web.frontend: nginx yet",
            "Set web.frontend: direct. The class's host passes everything on, so that the nodes may be private.",
        )
    if settings.tls.mode != "class-ca":
        raise RefusedError(
            f"notebook.spawner: slurm needs tls.mode: class-ca, and it is {settings.tls.mode}",
            "Passwords and work cross the cluster's network, and the administrator's key must not be in a home.",
        )
