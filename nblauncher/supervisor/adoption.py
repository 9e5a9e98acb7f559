"""What the next supervisor must know of a seat, and how it takes the server over that a killed one left running."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from nblauncher import owners, processes
from nblauncher.descriptors import take_listener, take_pipe
from nblauncher.model import Handle
from nblauncher.supervisor.registry import Remembered
from nblauncher.supervisor.seat import Seat


class NotAdopted(Exception):
    """The server is gone, or cannot be verified; why, in words."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Descriptors of a server that runs on: its pidfd, duplicates of its listening sockets and of the end of its log's
    pipe, which is None when there is none any more. The caller closes them.
    """

    pidfd: int
    sockets: list[socket.socket]
    output: int | None


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
    )


def take(one: Remembered, handle: Handle) -> Taken:
    """Take the server over without touching it. NotAdopted when it is another process by now, another uid's, or does
    not listen on the sockets that it was given.
    """
    pidfd = processes.open_handle(handle)
    if pidfd is None:
        raise NotAdopted("it ended while nobody watched")
    taken = [take_listener(pidfd, handle.pid, wanted) for wanted in one.listeners]
    sockets = [socket for socket in taken if socket is not None]
    if not sockets or len(sockets) != len(taken) or not _is_run_by(handle.pid, one.uid):
        for one_socket in sockets:
            one_socket.close()
        os.close(pidfd)
        raise NotAdopted("its process could not be verified")
    return Taken(pidfd, sockets, take_pipe(pidfd, handle.pid, one.pipe_inode))


def _is_run_by(pid: int, uid: int) -> bool:
    """Whether all of the process's uids are this one."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    return set(owners.uids_in(status)) == {uid}
