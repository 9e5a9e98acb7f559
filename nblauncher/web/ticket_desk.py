"""Where notebook servers redeem tickets: a process beside the front page, which it never delays.

Any process on the host may connect to tickets.sock. Each connection gets a child of this process, which reads one short
line within five seconds and asks the front page over the link that they share: uid and line in one packet, with a
socket of its own for the answer. The uid is the peer's, from the kernel; the front page judges the
ticket.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import time
from typing import NoReturn

from nblauncher.auth.tickets import MAX_LINE, answer_line
from nblauncher.system import privileges, workers
from nblauncher.system.unix_server import Limits, UnixServer

log = logging.getLogger(__name__)

PATIENCE = 5.0
LIMITS = Limits(children=8, burst=20, per_second=5)
UID = struct.Struct("=I")


def open_desk(tickets: int) -> socket.socket:
    """Fork the desk. Returns the front page's end of the link to it. For a process with one thread that holds no secret
    yet. `tickets` is the number of the listening socket, which the desk takes over.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _be_the_desk(theirs, socket.socket(fileno=tickets))
    theirs.close()
    os.close(tickets)
    return ours


def _be_the_desk(link: socket.socket, door: socket.socket) -> NoReturn:
    """Serve until the front page has gone."""
    status = 1
    try:
        workers.close_descriptors({0, 1, 2, link.fileno(), door.fileno()})
        privileges.set_dumpable(False)
        privileges.forbid_new_privileges()
        privileges.set_name("ticket-desk")
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        UnixServer(door, _Desk(link), LIMITS).serve(link, lambda: not _has_hung_up(link))
        status = 0
    except OSError as error:
        log.error("the ticket desk failed: %s", error)
    finally:
        os._exit(status)


class _Desk:
    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def reject_reason(self, uid: int) -> str:
        return ""

    def rejection(self, reason: str) -> bytes:
        return b""

    def on_start(self, uid: int, pid: int) -> None: ...

    def on_exit(self, uid: int, pid: int, status: int) -> None: ...

    def run(self, uid: int, connection: socket.socket) -> NoReturn:
        try:
            line = _read_line(connection)
            connection.sendall(_ask(self._link, uid, line))
        except OSError:
            log.info("a server with uid %d did not finish its question", uid)
        finally:
            os._exit(0)


def _ask(link: socket.socket, uid: int, line: bytes) -> bytes:
    """The front page's answer; no if it does not answer."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(PATIENCE)
        link.settimeout(PATIENCE)
        socket.send_fds(link, [UID.pack(uid) + line], [theirs.fileno()])
        theirs.close()
        return ours.recv(MAX_LINE) or answer_line(False)


def _read_line(connection: socket.socket) -> bytes:
    """The first line, or the part of it that arrives."""
    until = time.monotonic() + PATIENCE
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        connection.settimeout(max(0.01, until - time.monotonic()))
        part = connection.recv(MAX_LINE - len(line))
        if not part:
            break
        line += part
    connection.settimeout(PATIENCE)
    return line


def _has_hung_up(link: socket.socket) -> bool:
    """The front page sends nothing."""
    try:
        return link.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
