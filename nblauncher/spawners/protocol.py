"""What a spawner is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nblauncher.cgroups import Group
from nblauncher.model import Account, Handle


@dataclass(frozen=True, slots=True)
class Order:
    """A server to be started. Descriptors stay the caller's; the server gets duplicates."""

    account: Account
    listening: tuple[int, ...]
    """Its bound and listening sockets."""
    config: int
    """A sealed memory file with the server's whole config, secrets included; the account's own."""
    certificate: int | None
    key: int | None
    """Sealed memory files with PEM; None without TLS."""
    environment: Mapping[str, str]
    """All that it sees."""
    group: Group
    """The control group that it begins in."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server that was just started: how to find it again, and where its output comes out (the caller closes it)."""

    handle: Handle
    output: int


class Spawner(Protocol):
    """Starts, polls and stops servers. Runs in the supervisor, as root, in its one thread: nothing in here waits."""

    def start(self, order: Order) -> Started:
        """Start a server as its account. HostError when the host says no; how the server fares, `poll` tells."""
        ...

    def poll(self, handle: Handle) -> bool:
        """Whether the server still runs."""
        ...

    def stop(self, handle: Handle) -> None:
        """Ask the server to end. Nothing happens when it has."""
        ...


SERVER_PATH = "/usr/local/bin:/usr/bin:/bin"


def server_environment(
    account: Account, *, language: str, time_zone: str, jupyter: Mapping[str, Path], wanted: Mapping[str, str]
) -> dict[str, str]:
    """A server's environment, built from nothing; `wanted` (notebook.environment) cannot change what identifies it."""
    fixed = {
        "HOME": str(account.home),
        "USER": account.username,
        "LOGNAME": account.username,
        "SHELL": account.shell or "/bin/sh",
        **{name: str(path) for name, path in jupyter.items()},
    }
    return {
        "LANG": language,
        "PATH": SERVER_PATH,
        **({"TZ": time_zone} if time_zone else {}),
        **wanted,
        **fixed,
    }
