"""The end of every process of a uid, also of one that forks faster than anybody can count.

`kill(-1)` is one walk of the kernel over all processes under the lock that fork takes as well, so nothing slips
through by forking. What has to be right is who sends it: see `privileges.become_sweeper`.
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

from nblauncher import privileges, workers
from nblauncher.errors import BusyError, HostError, NblauncherError
from nblauncher.model import Account

RUN_ROOT = Path("/run/nblauncher")
_PATIENCE = 60.0
_MOMENT = 2.0
_BURIAL = 15.0
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Running:
    """A process and its name, which it chose itself."""

    pid: int
    name: str


def processes_of(uid: int, *, with_zombies: bool = False) -> list[Running]:
    """Processes whose real, effective or saved uid this is; zombies run nothing and count only when asked for.

    Finds what stays. A process that forks and ends all the time is never found: its pid is gone when it is looked at.
    """
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/status", "rb") as stream:
                fields = dict(line.split(b":", 1) for line in stream.read().splitlines() if b":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        is_dead = fields[b"State"].split()[0] in (b"Z", b"X") and int(fields.get(b"Threads", b"1")) <= 1
        if (with_zombies or not is_dead) and uid in map(int, fields[b"Uid"].split()[:3]):
            found.append(Running(int(entry), fields[b"Name"].strip().decode(errors="replace")))
    return found


def kill_all_of(uid: int, sweeper: Account, *, timeout: float = 30.0, run_root: Path = RUN_ROOT) -> None:
    """SIGKILL every process of `uid` and see that they are gone.

    `sweeper` is an account that nothing else runs as. Sweeps of the host go one after the other: a second one would
    be killed by the first, whose real uid it shares. Raises HostError naming what is left after `timeout` seconds (a
    service of root's that acts as the uid, or a process stuck in the kernel) and BusyError when another sweep takes
    longer.
    """
    with _one_at_a_time(run_root):
        # A moment of patience: the sweeper of a run that was killed dies with it, but not in the same instant.
        if not _are_gone(sweeper.uid, _MOMENT):
            raise HostError(
                f"processes run as {sweeper.username}, which is reserved for nblauncher: "
                f"{_names(processes_of(sweeper.uid))}",
                "End them; nothing was killed.",
            )
        deadline = time.monotonic() + timeout
        while True:
            # Also when we see nobody: who hops from pid to pid is gone from each before it can be looked at.
            _sweep(uid, sweeper)
            # What was killed still needs a moment to go; what is new (cron, a login) gets the next sweep.
            if _are_gone(uid, _MOMENT):
                return
            if time.monotonic() > deadline:
                raise HostError(f"processes of uid {uid} do not end: {_names(processes_of(uid))}")


def wait_for_reaping(uid: int) -> None:
    """Give init a moment to bury what was killed: userdel refuses while there is so much as a zombie of the uid."""
    deadline = time.monotonic() + _BURIAL
    while processes_of(uid, with_zombies=True) and time.monotonic() < deadline:
        time.sleep(0.02)


def _sweep(uid: int, sweeper: Account) -> None:
    """One `kill(-1)` by a forked child that is the uid only in effect. It is over in a few system calls."""
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
