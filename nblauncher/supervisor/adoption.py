"""What the next supervisor must know of a seat, and how it adopts a server that a killed one left running."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from nblauncher.isolation import owners
from nblauncher.model import Handle
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.seat import Seat
from nblauncher.system import processes
from nblauncher.system.descriptors import take_listener, take_pipe


class NotAdopted(Exception):
    """The server is gone or cannot be verified. The text says why."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Descriptors of a server that runs on: its pidfd, duplicates of its listening sockets and of the ends of the pipes
    of its log and its news, which are None when there are none any more. The caller closes them.
    """

    pidfd: int
    sockets: list[socket.socket]
    output: int | None
    news: int | None


def remembered(seat: Seat | None) -> Remembered | None:
    """None for a student without a seat."""
    if seat is None:
        return None
    return Remembered(
        seat.username,
        seat.uid,
        seat.port,
        seat.listeners,
        seat.state.value,
        seat.reason,
        seat.handle,
        seat.output.inode if seat.output else 0,
        seat.started_at,
        os.fstat(seat.news_pipe).st_ino if seat.news_pipe >= 0 else 0,
        seat.relay,
        seat.is_remote and seat.stopping is not None,
        _site(seat),
        seat.sign_ins,
    )


def sockets_of(student: Remembered) -> list[socket.socket]:
    """The sockets of a job's student, from the relay that holds them; empty when it is gone, or holds others."""
    if student.relay is None or (pidfd := processes.open_handle(student.relay)) is None:
        return []
    try:
        taken = [take_listener(pidfd, student.relay.pid, wanted) for wanted in student.listeners]
    finally:
        os.close(pidfd)
    sockets = [found for found in taken if found is not None]
    if len(sockets) == len(taken):
        return sockets
    for found in sockets:
        found.close()
    return []


def take(student: Remembered, handle: Handle) -> Taken:
    """Take the server over without touching it. NotAdopted when it is another process by now, another uid's, or does
    not listen on the sockets that it was given.
    """
    pidfd = processes.open_handle(handle)
    if pidfd is None:
        raise NotAdopted("it ended while no supervisor ran")
    taken = [take_listener(pidfd, handle.pid, wanted) for wanted in student.listeners]
    sockets = [found for found in taken if found is not None]
    if not sockets or len(sockets) != len(taken) or not _is_run_by(handle.pid, student.uid):
        for found in sockets:
            found.close()
        os.close(pidfd)
        raise NotAdopted("its process could not be verified")
    pipes = (take_pipe(pidfd, handle.pid, inode) for inode in (student.pipe_inode, student.news_inode))
    return Taken(pidfd, sockets, *pipes)


def _site(seat: Seat) -> tuple[str, str]:
    if seat.order is None or not seat.order.slurm:
        return seat.site
    settings = seat.order.slurm.get("settings", {})
    return str(settings.get("config", "")), str(settings.get("programs", ""))


def _is_run_by(pid: int, uid: int) -> bool:
    """Whether all of the process's uids are this one."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    return set(owners.uids_in(status)) == {uid}
