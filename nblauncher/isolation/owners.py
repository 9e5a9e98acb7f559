"""Which account and class a process belongs to, from /proc: by uid, and without control groups by session and parents.

Everything here runs as root and relies on nothing that a process can write itself.
Sources: proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from nblauncher.system import processes


def provable(uid: int, leader: int, ancestor: int) -> tuple[int, ...]:
    """Without groups: the uid's processes that certainly descend from the server `leader`.

    Those in its session (a process cannot join a session from outside), and those with a line of parents up to
    `ancestor`, the supervisor, which adopts orphans.
    """
    facts = dict(_processes())
    return tuple(
        pid
        for pid, process in facts.items()
        if process.uid == uid and (process.session == leader or _descends(pid, ancestor, facts))
    )


def of_user(uid: int) -> tuple[int, ...]:
    """Every process of the uid."""
    return tuple(pid for pid, process in _processes() if process.uid == uid)


def of_users(uids: Collection[int]) -> dict[int, tuple[int, str]]:
    """Every process with one of these real uids: uid and state (a letter, proc_pid_status(5)) by pid."""
    found: dict[int, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            status = Path("/proc", name, "status").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        uid = uids_in(status)[0]
        if uid in uids:
            state = next(line for line in status.split(b"\n") if line.startswith(b"State:"))
            found[int(name)] = uid, state.split()[1].decode("ascii")
    return found


def outside(uids: Collection[int], inside: Collection[int]) -> dict[int, tuple[int, str]]:
    """As `of_users`, without processes that are `inside` or have ended, and without our file workers."""
    found = of_users(uids)
    return {
        pid: (uid, state)
        for pid, (uid, state) in found.items()
        if pid not in inside and state not in "ZX" and not _is_file_worker(pid)
    }


def _is_file_worker(pid: int) -> bool:
    """Whether one of our commands forked it: its parent runs as root, and is this interpreter running nblauncher.

    A process cannot become the child of another that did not fork it, and only root decides what root's processes run.
    """
    try:
        parent = _number(Path("/proc", str(pid), "status").read_bytes(), b"PPid:")
        above = Path("/proc", str(parent))
        if set(uids_in((above / "status").read_bytes())) != {0}:
            return False
        words = (above / "cmdline").read_bytes().split(b"\0")
        is_python = os.path.samefile(above / "exe", sys.executable)
    except OSError:  # one of them has ended
        return False
    return is_python and any(os.path.basename(word) == b"nblauncher" for word in words[1:4])


def _number(status: bytes, field: bytes) -> int:
    return int(next(line for line in status.split(b"\n") if line.startswith(field)).split()[1])


def kill_proven(uid: int, leader: int, ancestor: int) -> None:
    """SIGKILL all `provable` processes. Repeat until none is left."""
    for pid in provable(uid, leader, ancestor):
        handle = processes.identify(pid)
        pidfd = None if handle is None else processes.open_handle(handle)
        if pidfd is None:
            continue
        try:
            # Check again now that we hold the pidfd: another process may have got the pid.
            if pid in provable(uid, leader, ancestor):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def uids_in(status: bytes) -> tuple[int, ...]:
    """Real, effective, saved and file system uid from the bytes of /proc/PID/status.

    The process's name comes first, and the process chooses it; the kernel escapes a newline in it, but not a carriage
    return, at which `splitlines` would split.
    """
    line = next(line for line in status.split(b"\n") if line.startswith(b"Uid:"))
    return tuple(map(int, line.split()[1:]))


@dataclass(frozen=True, slots=True)
class _Process:
    uid: int
    parent: int
    session: int


def _processes() -> Iterator[tuple[int, _Process]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            status = Path("/proc", name, "stat").read_bytes()
            uid = uids_in(Path("/proc", name, "status").read_bytes())[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, _group, session = status[status.rindex(b")") + 2 :].split()[:4]
        if state not in (b"Z", b"X"):
            yield int(name), _Process(uid, int(parent), int(session))


def _descends(pid: int, ancestor: int, facts: dict[int, _Process]) -> bool:
    seen = set()
    while pid in facts and pid not in seen:
        if pid == ancestor:
            return True
        seen.add(pid)
        pid = facts[pid].parent
    return False
