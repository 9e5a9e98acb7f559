"""A program of strangers, run as an account that owns nothing and apart from the host: it can leave nothing there.

It has its own process, IPC and mount namespaces, and a network only where it is given one. It may write to one folder
and to temporary folders that go with it; setuid programs give it nothing. When the program has ended, everything it
started is ended too, whatever it did to hide: the kernel kills a process namespace together with its first process.
Sources: pid_namespaces(7), ipc_namespaces(7), network_namespaces(7), mount_namespaces(7), prctl(2), netdevice(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nblauncher import interruption, namespaces, privileges, workers
from nblauncher.errors import HostError
from nblauncher.model import Account

SAID = "said"
"""Beside the folder: what the program wrote to its standard error."""

_ROOT = Account("root", 0, 0, Path("/root"))
_TEMPORARY = 512 << 20
"""Bytes of each temporary folder, which is memory. TMPDIR leads to the disk."""

_MOST_SAID = 100_000
_MOST_LINES = 60
_LOOK = 1.0
_ORPHANS = 10.0
"""Seconds that a process may run on when what started it has ended; it would hold the pipes of the others open."""

_UNENDING = 60.0
"""Seconds after which the program is ended as well, when there are such processes all the time."""

_LATER = 60.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_FAILED_TO_START = 126


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A program, and the one folder that it may write to: one that root made in a folder of root's alone (0700)."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    home: Path
    has_network: bool
    visible: tuple[Path, ...] = ()
    """Folders below the host's temporary ones that it may read all the same."""


def run(account: Account, program: Enclosed, *, timeout: float) -> str:
    """Nothing, or what went wrong in the program's own words. HostError when this host cannot enclose it, and when the
    folder is taken away meanwhile.
    """
    worker = workers.start(_ROOT, _supervise, account, program, timeout)
    deadline = time.monotonic() + timeout + _LATER
    try:
        while not interruption.wait([worker.fileno()], _LOOK):
            if not program.home.is_dir():
                raise HostError(f"{program.home} was taken away while a program ran in it")
            if time.monotonic() > deadline:
                break
    except BaseException:
        worker.stop()
        raise
    answer: dict[str, Any] = worker.result(_LOOK)
    if answer.get("problem"):
        raise HostError(str(answer["problem"]), str(answer.get("hint", "")))
    return str(answer.get("why", ""))


def objection() -> str:
    """Why this host can enclose nothing; empty when it can. Tries it, as root."""
    try:
        workers.run_as(_ROOT, _leave)
    except HostError as error:
        return error.problem
    return ""


def _leave() -> None:
    namespaces.leave_the_host(has_network=False)


def _supervise(account: Account, program: Enclosed, timeout: float) -> dict[str, Any]:
    """Runs as root, in a worker: it dies with our parent, and takes everything in the namespaces with it."""
    how = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    said = os.open(program.home.parent / SAID, how, 0o600)
    namespaces.leave_the_host(has_network=program.has_network)
    answer, answer_end = os.pipe2(os.O_CLOEXEC)
    lifeline, lifeline_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(lifeline_end)
        os.close(answer)
        _be_first(account, program, timeout, said, answer_end, lifeline)
    os.close(answer_end)
    with open(answer, "rb") as stream:
        words = stream.read()
    os.waitpid(pid, 0)
    outcome: dict[str, Any] = json.loads(words) if words else {"why": "it was killed"}
    status = outcome.pop("status", 0)
    if status:
        outcome["why"] = _last_said(said) or f"exit status {os.waitstatus_to_exitcode(status)}"
    return outcome


def _be_first(account: Account, program: Enclosed, timeout: float, said: int, answer: int, lifeline: int) -> NoReturn:
    """The first process of the namespace, root's. When it ends, the kernel ends all others."""
    outcome: dict[str, Any] = {"why": "it could not be started"}
    try:
        privileges.die_with_namespace()
        if _is_cut(lifeline):
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        namespaces.close_off(program.home, _TEMPORARY, has_network=program.has_network, visible=program.visible)
        if not program.has_network:
            _bring_up_loopback()
        pid = os.fork()
        if pid == 0:
            _become(account, program, said)
        outcome = _wait_for(pid, timeout)
    except HostError as error:
        outcome = {"problem": error.problem, "hint": namespaces.APART}
    except OSError as error:
        outcome = {"problem": f"packages cannot be built apart from the host: {error}", "hint": namespaces.APART}
    finally:
        os.write(answer, json.dumps(outcome).encode())
        os._exit(0)


def _is_cut(lifeline: int) -> bool:
    """Whether our parent ended before it could take us with it."""
    poller = select.poll()
    poller.register(lifeline, select.POLLIN)
    return bool(poller.poll(0))


def _become(account: Account, program: Enclosed, said: int) -> NoReturn:
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((nothing, nothing, said)):
            os.dup2(descriptor, number)
        workers.close_descriptors({0, 1, 2})
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        privileges.drop_to(account)
        privileges.forbid_new_privileges()
        os.umask(0o022)
        os.chdir(program.home)
        os.execve(program.argv[0], list(program.argv), dict(program.environment))  # noqa: S606
    except (HostError, OSError) as error:
        os.write(2, f"{program.argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(_FAILED_TO_START)


def _wait_for(pid: int, timeout: float) -> dict[str, Any]:
    """Until the program has ended, or until what it left running does not let it."""
    deadline = time.monotonic() + timeout
    orphaned_since: float | None = None
    while (status := _reaped(pid)) is None:
        now = time.monotonic()
        if now > deadline:
            return {"why": f"it was not done after {timeout / 60:.0f} minutes"}
        orphans = [one for one in _children() if one != pid]
        orphaned_since = (orphaned_since or now) if orphans else None
        if orphaned_since is not None and now - orphaned_since > _ORPHANS:
            if now - orphaned_since > _UNENDING:  # they fork as fast as they are ended
                return {"why": "it leaves processes behind that do not end"}
            for one in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK)
    return {"status": status}


def _reaped(pid: int) -> int | None:
    """Bury whoever ended; the wait status of this one when it is among them."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1 << 8
        if ended == pid:
            return status
        if ended == 0:
            return None


def _children() -> list[int]:
    """Of the first process: what was started by one that has ended comes to it."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
                if int(fields[1]) == 1:
                    found.append(int(entry))
    return found


def _bring_up_loopback() -> None:
    """127.0.0.1 of the network namespace, where nobody else is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(door, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(door, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _last_said(said: int) -> str:
    size = os.fstat(said).st_size
    lines = os.pread(said, _MOST_SAID, max(0, size - _MOST_SAID)).decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-_MOST_LINES:])
