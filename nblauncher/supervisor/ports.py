"""The class's ports: bound once, as root, on both wildcards, and held until the class ends (docs/decisions/ports.md).

A port is held by listening, not by binding alone: with SO_REUSEADDR any process may bind beside a socket that does not
listen. SO_REUSEPORT is never set, so no other process can share a port. Sources: socket(7), ip(7), ipv6(7),
proc_pid_net(5).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.printable import printable
from nblauncher.system import tcp_table
from nblauncher.system.descriptors import unix_listener

BACKLOG = 1024
"""Connections that wait to be accepted; a client beyond it retries a second later. somaxconn caps it."""
HIDDEN = ".down"
_LONGEST_PATH = 107

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104
NO_IPV6 = "IPv6 is off on this host: the ports are open on IPv4 only"

_IPV6_IS_OFF = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def open_port(port: int, addresses: Sequence[str] = ()) -> tuple[list[socket.socket], list[str]]:
    """Listening sockets for one port, and notes for the teacher. Runs as root.

    `addresses` are web.bind; empty: both wildcards. HostError names the process that holds it; then none is kept.
    """
    opened: list[socket.socket] = []
    notes: list[str] = []
    for address in addresses or WILDCARDS:
        try:
            opened.append(_listen(port, address))
        except OSError as error:
            if not addresses and address == "::" and error.errno in _IPV6_IS_OFF:
                notes.append(NO_IPV6)
                continue
            for listening in opened:
                listening.close()
            raise _bind_error(port, address, error) from error
    return opened, notes


def open_socket(path: Path, gid: int) -> list[socket.socket]:
    """A listening unix socket that only this group, the proxy's, can reach. Runs as root. HostError.

    The folder keeps all other accounts out, the socket's user too: a student's processes listen, but cannot connect.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o750)
    os.chown(path.parent, 0, gid)
    path.parent.chmod(0o750)
    path.with_name(f"{path.name}{HIDDEN}").unlink(missing_ok=True)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise HostError(f"{path} is too long for a socket", "Choose a shorter course name.")
    listening = unix_listener(path, 0o660)
    os.chown(path, 0, gid)
    listening.setblocking(False)
    return [listening]


def show(sockets: Iterable[socket.socket], *, is_shown: bool) -> None:
    """Give unix sockets their names, or take them away: then a client is refused at once."""
    for listening in sockets:
        if listening.family == socket.AF_UNIX:
            path = Path(listening.getsockname())
            hidden = path.with_name(f"{path.name}{HIDDEN}")
            source, target = (hidden, path) if is_shown else (path, hidden)
            if source.exists():
                source.rename(target)


def listen_again(sockets: Iterable[socket.socket]) -> None:
    """A student can shutdown(2) the inherited socket, which is ours as well: then no process would hold the port.

    HostError names the process that took it meanwhile.
    """
    for listening in sockets:
        if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            try:
                listening.listen(BACKLOG)
            except OSError as error:
                if listening.family == socket.AF_UNIX:
                    raise HostError(f"cannot listen on {listening.getsockname()}: {error.strerror}") from error
                address, port = listening.getsockname()[:2]
                raise _bind_error(port, address, error) from error


def holders_of(port: int) -> str:
    """The processes that hold a TCP port, in words; empty when that cannot be seen."""
    inodes = _inodes(port)
    return ", ".join(sorted(set(_holders(inodes)))) if inodes else ""


def _listen(port: int, address: str) -> socket.socket:
    is_v6 = ipaddress.ip_address(address).version == 6
    listening = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets have it from here. A relay that does not set it would keep a small message back until the
        # browser has acknowledged the last one.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind((address, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _bind_error(port: int, address: str, error: OSError) -> HostError:
    if error.errno == errno.EADDRINUSE:
        holders = holders_of(port)
        by = f" by {holders}" if holders else ""
        return HostError(f"port {port} is already used{by}", "End that program, or choose another web.port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return HostError(f"cannot open port {port}: this host has no address {address}", "Check web.bind.")
    return HostError(f"cannot open port {port} on {address}: {error.strerror}")


def _inodes(port: int) -> frozenset[int]:
    """Inodes of the sockets on this local port; listening ones if there are any."""
    found = [held for held in tcp_table.sockets() if held.port == port]
    listening = [held for held in found if held.is_listening]
    return frozenset(held.inode for held in listening or found) - {0}


def _holders(inodes: frozenset[int]) -> list[str]:
    links = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            folder = f"/proc/{pid}/fd"
            if any(_link(f"{folder}/{name}") in links for name in os.listdir(folder)):
                found.append(_described(pid))
        except OSError:
            continue
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _described(pid: str) -> str:
    name = printable(Path("/proc", pid, "comm").read_text(errors="backslashreplace").strip())
    uid = Path("/proc", pid).stat().st_uid
    try:
        account = pwd.getpwuid(uid).pw_name
    except KeyError:
        account = f"uid {uid}"
    return f"{name} (pid {pid}, {account})"
