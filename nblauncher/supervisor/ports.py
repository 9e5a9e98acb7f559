"""The class's ports: bound once, as root, on the v4 and v6 wildcard, and held until the class ends (DESIGN section 5).

A port is held by listening, not by binding alone: with SO_REUSEADDR anybody may bind beside a socket that does not
listen. SO_REUSEPORT is never set, so nobody can share. Sources: socket(7), ip(7), ipv6(7), proc_pid_net(5).
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

from nblauncher.descriptors import unix_listener
from nblauncher.errors import HostError
from nblauncher.printable import printable

BACKLOG = 1024
"""Connections that wait to be accepted; a client beyond it tries again a second later. somaxconn caps it."""
HIDDEN = ".down"
_LONGEST_PATH = 107

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104
NO_IPV6 = "IPv6 is off on this host: the ports are open on IPv4 only"

_LISTEN = "0A"
_IPV6_IS_OFF = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def open_port(port: int, addresses: Sequence[str] = ()) -> tuple[list[socket.socket], list[str]]:
    """Listening sockets for one port, and what is to be said about it. Runs as root.

    `addresses` are web.bind; empty: both wildcards. HostError names the port and whoever holds it; then none is kept.
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
            for one in opened:
                one.close()
            raise _told(port, address, error) from error
    return opened, notes


def open_socket(path: Path, gid: int) -> list[socket.socket]:
    """A listening unix socket that only this group, the proxy's, can reach. Runs as root. HostError.

    The folder keeps everybody else out, its owner too: the student who listens cannot connect.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o750)
    os.chown(path.parent, 0, gid)
    path.parent.chmod(0o750)
    path.with_name(f"{path.name}{HIDDEN}").unlink(missing_ok=True)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise HostError(f"{path} is too long for a socket", "Choose a shorter course name.")
    one = unix_listener(path, 0o660)
    os.chown(path, 0, gid)
    one.setblocking(False)
    return [one]


def show(sockets: Iterable[socket.socket], *, is_shown: bool) -> None:
    """Give unix sockets their names, or take them away: whoever connects then hears at once that nobody is there."""
    for one in sockets:
        if one.family == socket.AF_UNIX:
            path = Path(one.getsockname())
            hidden = path.with_name(f"{path.name}{HIDDEN}")
            source, target = (hidden, path) if is_shown else (path, hidden)
            if source.exists():
                source.rename(target)


def listen_again(sockets: Iterable[socket.socket]) -> None:
    """A student can shutdown(2) the inherited socket, which is ours as well: then nobody would hold the port.

    HostError names whoever took it meanwhile.
    """
    for one in sockets:
        if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            try:
                one.listen(BACKLOG)
            except OSError as error:
                if one.family == socket.AF_UNIX:
                    raise HostError(f"cannot listen on {one.getsockname()}: {error.strerror}") from error
                address, port = one.getsockname()[:2]
                raise _told(port, address, error) from error


def who_holds(port: int) -> str:
    """The processes that hold a TCP port, as words; empty when that cannot be seen."""
    inodes = _inodes(port)
    return ", ".join(sorted(set(_holders(inodes)))) if inodes else ""


def _listen(port: int, address: str) -> socket.socket:
    is_v6 = ipaddress.ip_address(address).version == 6
    one = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        one.listen(BACKLOG)
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one


def _told(port: int, address: str, error: OSError) -> HostError:
    if error.errno == errno.EADDRINUSE:
        holders = who_holds(port)
        by = f" by {holders}" if holders else ""
        return HostError(f"port {port} is already used{by}", "End that program, or choose another web.port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return HostError(f"cannot open port {port}: this host has no address {address}", "Check web.bind.")
    return HostError(f"cannot open port {port} on {address}: {error.strerror}")


def _inodes(port: int) -> frozenset[str]:
    """Inodes of the sockets on this local port; listening ones if there are any."""
    listening: set[str] = set()
    others: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for columns in map(str.split, lines):
            if int(columns[1].rpartition(":")[2], 16) == port:
                (listening if columns[3] == _LISTEN else others).add(columns[9])
    return frozenset(listening or others) - {"0"}


def _holders(inodes: frozenset[str]) -> list[str]:
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
