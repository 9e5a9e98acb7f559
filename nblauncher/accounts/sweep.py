"""End every process of a uid, also one that forks all the time.

In `kill(-1)` the kernel walks over all processes under the lock that fork takes too, so no process escapes by forking.
The sender must have the right ids: see `privileges.become_sweeper`.
Sources: kill(2), credentials(7), proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import BusyError, HostError, NblauncherError
from nblauncher.model import Account
from nblauncher.system import privileges, workers

RUN_ROOT = Path("/run/nblauncher")
_PATIENCE = 60.0
_MOMENT = 2.0
_BURIAL = 15.0
_NAMED = 5
_UIDS = b"\nUid:\t"


@dataclass(frozen=True, slots=True)
class Running:
    """A process and its name, which the process chooses."""

    pid: int
    name: str


def processes_of(uid: int, *, with_zombies: bool = False) -> list[Running]:
    """Processes with this real, effective or saved uid; zombies do not run and count only `with_zombies`.

    A process that forks and exits all the time may escape: its pid can be gone before we look at it.
    """
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/status", "rb", buffering=0) as stream:
                content = stream.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # A removal reads this of every process of the host, several times for each student: the rest only for a match.
        # A newline in a process's name is shown escaped, so no line is forged.
        start = content.index(_UIDS) + len(_UIDS)
        if uid not in map(int, content[start : content.index(b"\n", start)].split()[:3]):
            continue
        fields = dict(line.split(b":", 1) for line in content.splitlines() if b":" in line)
        is_dead = fields[b"State"].split()[0] in (b"Z", b"X") and int(fields.get(b"Threads", b"1")) <= 1
        if with_zombies or not is_dead:
            found.append(Running(int(entry), fields[b"Name"].strip().decode(errors="replace")))
    return found


def kill_all_of(uid: int, sweeper: Account, *, timeout: float = 30.0, run_root: Path = RUN_ROOT) -> None:
    """SIGKILL every process of `uid` and wait until they are gone.

    No other process may run as `sweeper`. Sweeps on a host run one after the other: one would kill another, because
    they share the real uid. HostError with the processes that are left after `timeout` seconds (a service of root's
    that acts as the uid, or a process stuck in the kernel); BusyError when another sweep takes longer.
    """
    with _one_at_a_time(run_root):
        # Wait a moment: the sweeper of a killed run dies with it, but not at the same instant.
        if not _are_gone(sweeper.uid, _MOMENT):
            raise HostError(
                f"processes run as {sweeper.username}, which is reserved for nblauncher: "
                f"{_names(processes_of(sweeper.uid))}",
                "End them; nothing was killed.",
            )
        deadline = time.monotonic() + timeout
        while True:
            # Even if we see no process: one that forks and exits all the time is gone before we look at it.
            _sweep(uid, sweeper)
            # Killed processes need a moment to end; new ones (cron, a login) get the next sweep.
            if _are_gone(uid, _MOMENT):
                return
            if time.monotonic() > deadline:
                raise HostError(f"processes of uid {uid} do not end: {_names(processes_of(uid))}")


def wait_for_reaping(uid: int) -> None:
    """Give init a moment to reap what was killed: userdel refuses while there is even a zombie of the uid."""
    deadline = time.monotonic() + _BURIAL
    while processes_of(uid, with_zombies=True) and time.monotonic() < deadline:
        time.sleep(0.02)


def _sweep(uid: int, sweeper: Account) -> None:
    """One `kill(-1)` by a forked child that has only the effective uid; it takes a few system calls."""
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _kill_and_exit(uid, sweeper, parent_pid)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and status != 0:
        raise HostError(f"root could not be given up to sweep uid {uid}; nothing was killed")


def _kill_and_exit(uid: int, sweeper: Account, parent_pid: int) -> None:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        workers.close_descriptors(())
        privileges.become_sweeper(uid, sweeper)
        privileges.die_with_parent(parent_pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        status = 0
    except (NblauncherError, OSError):
        status = 2
    finally:
        os._exit(status)


def _are_gone(uid: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while processes_of(uid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _names(processes: list[Running]) -> str:
    words = [f"{process.pid} ({process.name})" for process in processes[:_NAMED]]
    return ", ".join(words) + (f" and {len(processes) - _NAMED} more" if len(processes) > _NAMED else "")


@contextlib.contextmanager
def _one_at_a_time(run_root: Path) -> Iterator[None]:
    run_root.mkdir(mode=0o711, exist_ok=True)
    descriptor = os.open(run_root / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(f"another sweep still ran after {_PATIENCE:.0f} s") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
