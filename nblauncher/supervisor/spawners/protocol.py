"""What a spawner is asked for and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nblauncher.errors import HostError
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account, ServerHandle


@dataclass(frozen=True, slots=True)
class Order:
    """A server to be started. The caller keeps the descriptors; the server gets duplicates."""

    account: Account
    listening: tuple[int, ...]
    """Its bound and listening sockets."""
    config: int
    """A sealed memory file, owned by the account, with the server's whole config, secrets included."""
    certificate: int | None
    key: int | None
    """Sealed memory files with PEM; None without TLS."""
    environment: Mapping[str, str]
    """All variables that it gets."""
    sandbox: Sandbox
    """What confines it and all that it starts."""
    is_isolated: bool
    """It gets a mount namespace, which `sandbox` has when it starts."""
    news: int
    """Where it writes a word when something happens: see nblauncher.server.activity."""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """As ServerSpec.slurm."""
    sign_ins: str = ""
    """Of a job: names the sign-ins that go on with this server (nblauncher.server.config.OnNode)."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server that was just started: how to find it again, and the pipe with its output (the receiver closes it). A
    job has none: it writes into the student's home.
    """

    handle: ServerHandle
    output: int | None


Answer = Callable[[Started | HostError], None]
"""Called once: the server was started, or the host refused. What follows is known from `poll` and its exit."""


class Spawner(Protocol):
    """Starts, polls and stops servers. Runs in the supervisor, as root, in its one thread: nothing in here waits."""

    @property
    def is_remote(self) -> bool:
        """Whether servers run on other hosts: no sandbox of this one holds them, and a stop takes its time."""
        ...

    def start(self, order: Order, answer: Answer) -> None:
        """Start a server as its account; answers at once or later. The order's descriptors may be closed afterwards."""
        ...

    def poll(self, handle: ServerHandle) -> bool:
        """Whether the server is still running."""
        ...

    def stop(self, handle: ServerHandle) -> None:
        """Ask the server to end. Nothing happens when it has ended."""
        ...

    def kill(self, handle: ServerHandle) -> None:
        """End a server that is not wanted any more, without asking."""
        ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class EventLoop(Protocol):
    """The part of the supervisor's loop that a spawner needs."""

    def watch(self, descriptor: int, call: Callable[[], None]) -> None: ...

    def forget(self, descriptor: int) -> None: ...

    def later(self, seconds: float, call: Callable[[], None]) -> Timer: ...


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
