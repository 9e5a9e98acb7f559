"""Run an untrusted program apart from the host, as an account that owns nothing: it can leave nothing on the host.

It has its own process, IPC and mount namespaces, and a network only where it is given one. It may write to one folder
and to temporary folders that end with it; setuid programs give it no privileges. When the program has ended, every
process that it started is ended too, however it hid them: the kernel kills a process namespace with its first process.
Sources: pid_namespaces(7), ipc_namespaces(7), network_namespaces(7), mount_namespaces(7), prctl(2), netdevice(7).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nblauncher.errors import HostError
from nblauncher.isolation import namespaces
from nblauncher.model import ROOT, Account
from nblauncher.system import interruption, privileges, workers

ERRORS = "said"
"""The file beside the folder that gets the program's standard error."""

_TEMPORARY = 512 << 20
"""Bytes of each temporary folder, which is in memory. TMPDIR is on the disk."""

_MOST_BYTES = 100_000
_MOST_LINES = 60
_LOOK = 1.0
_ORPHANS = 10.0
"""Seconds that a process may outlive its parent: it would keep the pipes of the others open."""

_UNENDING = 60.0
"""Seconds after which the program is ended as well, if there are such processes all the time."""

_LATER = 60.0
_FAILED_TO_START = 126


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A program, and the one folder that it may write to, which root made in a folder for root only (0700)."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    home: Path
    has_network: bool
    visible: tuple[Path, ...] = ()
    """Folders below the host's temporary folders that it may read all the same."""


def run(account: Account, program: Enclosed, *, timeout: float) -> str:
    """Run it. Returns an empty string, or what went wrong in the program's own words. HostError when this host cannot
    enclose it, or the folder is removed meanwhile.
    """
    worker = workers.start(ROOT, _supervise, account, program, timeout)
    deadline = time.monotonic() + timeout + _LATER
    try:
        while not interruption.wait([worker.fileno()], _LOOK):
            if not program.home.is_dir():
                raise HostError(f"{program.home} was removed while a program ran in it")
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
    """Why this host cannot enclose a program; empty when it can. Tries it, as root."""
    try:
        workers.run_as(ROOT, _leave)
    except HostError as error:
        return error.problem
    return ""


def _leave() -> None:
    namespaces.leave_the_host(has_network=False)


def _supervise(account: Account, program: Enclosed, timeout: float) -> dict[str, Any]:
    """Runs as root, in a worker: it dies with our parent, and all processes in the namespaces die with it."""
    how = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    errors = os.open(program.home.parent / ERRORS, how, 0o600)
    namespaces.leave_the_host(has_network=program.has_network)
    answer, answer_end = os.pipe2(os.O_CLOEXEC)
    lifeline, lifeline_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(lifeline_end)
        os.close(answer)
        _be_first(account, program, timeout, errors, answer_end, lifeline)
    os.close(answer_end)
    with open(answer, "rb") as stream:
        words = stream.read()
    os.waitpid(pid, 0)
    outcome: dict[str, Any] = json.loads(words) if words else {"why": "it was killed"}
    status = outcome.pop("status", 0)
    if status:
        outcome["why"] = _last_lines(errors) or f"exit status {os.waitstatus_to_exitcode(status)}"
    return outcome


def _be_first(account: Account, program: Enclosed, timeout: float, errors: int, answer: int, lifeline: int) -> NoReturn:
    """The first process of the namespace, as root. When it ends, the kernel ends all others."""
    outcome: dict[str, Any] = {"why": "it could not be started"}
    try:
        privileges.die_with_namespace()
        if _is_cut(lifeline):
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        namespaces.close_off(program.home, _TEMPORARY, has_network=program.has_network, visible=program.visible)
        if not program.has_network:
            namespaces.bring_up_loopback()
        pid = os.fork()
        if pid == 0:
            _become(account, program, errors)
        outcome = _wait_for(pid, timeout)
    except HostError as error:
        outcome = {"problem": error.problem, "hint": namespaces.APART}
    except OSError as error:
        outcome = {"problem": f"packages cannot be built apart from the host: {error}", "hint": namespaces.APART}
    finally:
        os.write(answer, json.dumps(outcome).encode())
        os._exit(0)


def _is_cut(lifeline: int) -> bool:
    """Whether our parent ended before we asked to die with it."""
    poller = select.poll()
    poller.register(lifeline, select.POLLIN)
    return bool(poller.poll(0))


def _become(account: Account, program: Enclosed, errors: int) -> NoReturn:
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((nothing, nothing, errors)):
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
    """Wait until the program has ended, or until the processes that it left behind keep it from ending."""
    deadline = time.monotonic() + timeout
    orphaned_since: float | None = None
    while (status := _reaped(pid)) is None:
        now = time.monotonic()
        if now > deadline:
            return {"why": f"it was not done after {timeout / 60:.0f} minutes"}
        orphans = [child for child in _children() if child != pid]
        orphaned_since = (orphaned_since or now) if orphans else None
        if orphaned_since is not None and now - orphaned_since > _ORPHANS:
            if now - orphaned_since > _UNENDING:  # they fork as fast as they are ended
                return {"why": "it leaves processes behind that do not end"}
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK)
    return {"status": status}


def _reaped(pid: int) -> int | None:
    """Reap all children that ended; the wait status of this one if it is among them."""
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
    """Children of the first process, which adopts orphans."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
                if int(fields[1]) == 1:
                    found.append(int(entry))
    return found


def _last_lines(errors: int) -> str:
    size = os.fstat(errors).st_size
    lines = os.pread(errors, _MOST_BYTES, max(0, size - _MOST_BYTES)).decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-_MOST_LINES:])
