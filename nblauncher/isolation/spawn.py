"""Start a long-lived child as another account: a server, the front page, a fork server.

Unlike a worker it may outlive its parent, and it has only what it is given: no terminal, descriptor, privilege or
environment variable of ours.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.model import Account, Handle
from nblauncher.system import interruption, privileges, processes
from nblauncher.system.workers import close_descriptors

NOWHERE = Path("/nonexistent")
"""A home that does not exist, for a process that has none yet."""


@dataclass(frozen=True, slots=True)
class Child:
    """What to run, as which account, with which descriptors (by the same numbers), in which folder and sandbox."""

    account: Account | None
    """None: the child stays root."""
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    keep: tuple[int, ...]
    folder: Path
    sandbox: Sandbox
    listening: tuple[int, ...] = ()
    """Of `keep`, the sockets that it gets as systemd passes them (sd_listen_fds(3)): from number 3 on, with LISTEN_FDS
    and LISTEN_PID, and SIGPIPE ignored.
    """


def fork_exec(child: Child) -> tuple[Handle, int]:
    """Start it. Returns its handle and the read end of its standard output and error (non-blocking).

    For a process with a single thread, as root. An error after the fork is written to that output, and the child exits
    with status 126. HostError when the host cannot start a child.
    """
    return _start(child, lambda: _exec(child))


def fork_run(child: Child, body: Callable[[], None]) -> tuple[Handle, int]:
    """As `fork_exec`, but it goes on with `body` in the memory of this process, which must hold no secret."""
    return _start(child, body)


def _start(child: Child, body: Callable[[], None]) -> tuple[Handle, int]:
    output, output_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError as error:
        os.close(output)
        os.close(output_end)
        raise HostError(f"cannot start a process: {error.strerror}") from error
    if pid == 0:
        _become(child, output_end, body)
    os.close(output_end)
    os.set_blocking(output, False)
    handle = processes.identify(pid)
    if handle is None:
        # A child that was not reaped stays visible; only a host without /proc gets here.
        os.close(output)
        raise HostError(f"process {pid} is not in /proc")
    return handle, output


def settle(child: Child, output: int) -> None:
    """In the forked child: drop everything of the parent's and become the account. If it raises, it may be only half
    done: the caller must end the process then.
    """
    os.setsid()
    _use_streams(output)
    close_descriptors({0, 1, 2, *child.keep})
    _reset_signals()
    child.sandbox.enter()
    if child.account is not None:
        privileges.drop_to(child.account)
        privileges.forbid_new_privileges()
    _enter_folder(child.folder)


def _become(child: Child, output: int, body: Callable[[], None]) -> None:
    """The child. Never returns into the parent's code."""
    try:
        gc.disable()
        settle(child, output)
        body()
    except BaseException:
        # The boundary of this process: no caller can catch it, and the parent reads what is written here.
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(126)


def _exec(child: Child) -> None:
    for descriptor in child.keep:
        os.set_inheritable(descriptor, True)
    environment = {**child.environment, **_pass_on(child.listening)}
    if child.listening:
        # As systemd starts what it passes sockets to (systemd.exec(5), IgnoreSIGPIPE): a client that leaves while it is
        # answered ends systemd-socket-proxyd otherwise, and with it everybody's connections.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.execve(child.argv[0], list(child.argv), environment)  # noqa: S606


def _pass_on(listening: tuple[int, ...]) -> dict[str, str]:
    """Give the sockets their numbers; the variables that say so."""
    if not listening:
        return {}
    # First out of the way: one may have a number that another is to get.
    for number, copy in enumerate([fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 64) for one in listening], start=3):
        os.dup2(copy, number)
    return {"LISTEN_FDS": str(len(listening)), "LISTEN_PID": str(os.getpid())}


def _use_streams(output: int) -> None:
    """stdin is /dev/null: a student must not reach root's terminal."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _reset_signals() -> None:
    interruption.forget()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _enter_folder(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError:
        # The home cannot be entered: the server can still report that in the student's browser.
        os.chdir("/")
