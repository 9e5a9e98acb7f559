"""Start the two fork servers of a grading, wait until they have loaded, and end them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nblauncher.errors import HostError
from nblauncher.forkserver import foreign, requests
from nblauncher.isolation.cgroups import Group
from nblauncher.system import interruption

LOADING = 120.0
"""Seconds for a fork server to load."""

ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
_ENDING = 10.0


@dataclass(frozen=True, slots=True)
class ForkServer:
    """One that runs as root. It ends when `link`, a socket to it, is shut down."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    log_file: Path

    def enter(self, group: Group) -> None:
        """Have it, and all that it forks from now on, in this group."""
        group.create()
        group.enter(self.process.pid)

    def wait_until_ready(self, name: str) -> Mapping[str, Any]:
        """What it says of itself. HostError."""
        deadline = time.monotonic() + LOADING
        if not interruption.wait([self.link.fileno()], max(0.0, deadline - time.monotonic())):
            raise HostError(f"the {name} were not loaded within {LOADING:.0f} s", f"See {self.log_file}.")
        packet = requests.receive(self.link)
        if packet is None or "ready" not in packet[0]:
            why = "; ".join(map(str, packet[0].get("refused", ())))[:500] if packet else "the process ended"
            raise HostError(f"the {name} cannot be loaded: {why}", f"See {self.log_file}.")
        return packet[0]

    def end(self) -> None:
        """Once more does nothing. Forked processes may hold the socket too, so closing it would not be enough."""
        if self.link.fileno() < 0:
            return
        with contextlib.suppress(OSError):  # it has ended
            self.link.shutdown(socket.SHUT_RDWR)
        self.link.close()
        try:
            self.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(python: str, command: Sequence[str], door: socket.socket, home: Path, log_file: Path) -> ForkServer:
    """`command` is its module and arguments, to which the numbers of `door` and of its end of the link are added.
    Closes `door`. HostError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    keep = (door.fileno(), theirs.fileno())
    try:
        process = subprocess.Popen(
            [python, foreign.__file__, *command, *map(str, keep)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=keep,
            env={**ENVIRONMENT, "HOME": str(home)},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise HostError(f"cannot start {python}: {error.strerror}") from error
    finally:
        os.close(log)
        theirs.close()
        door.close()
    return ForkServer(process, ours, log_file)
