"""The class's ports: which they are, whether they are free, and what else may use them."""

from __future__ import annotations

import errno
import pwd
import re
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import psutil

from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.system.blocked_ports import BLOCKED_PORTS

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104


def class_ports(front_port: int, students: int, allotted: Collection[int], taken: Collection[int] = ()) -> list[int]:
    """The front page's port, the students' assigned ports, and the next ones for students without a port."""
    ports = {front_port, *allotted}
    following = max(ports) + 1
    while len(ports) < students + 1 and following < 65536:
        if following not in taken and following not in BLOCKED_PORTS:
            ports.add(following)
        following += 1
    return sorted(ports)


def ranges(ports: Iterable[int]) -> list[tuple[int, int]]:
    """The first and last port of each consecutive range."""
    found: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if found and found[-1][1] == port - 1:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return found


def in_words(ports: Iterable[int], *, dash: str = "-") -> str:
    """`8000-8031, 8040`."""
    return ", ".join(f"{low}{dash}{high}" if low != high else str(low) for low, high in ranges(ports))


def enough(front_port: int, students: int, ports: Collection[int]) -> Finding | None:
    if len(ports) >= students + 1:
        return None
    return problem(
        "ports",
        f"{students} students need {students + 1} ports from {front_port} on, and 65535 is the last",
        "Choose a lower web.port.",
    )


def blocked(front_port: int, allotted: Collection[int]) -> Iterator[Finding]:
    """The ports of the class that no browser connects to."""
    if front_port in BLOCKED_PORTS:
        hint = "Choose another web.port, 8000 say."
        yield problem("ports", f"no browser opens port {front_port}: it is one of those that they block", hint)
    if found := BLOCKED_PORTS.intersection(allotted):
        yield warning(
            "ports",
            f"no browser opens {in_words(found)}, which an older release assigned to students of this course",
            "`nblauncher remove --only NAME` and then `setup` give such a student another port.",
        )


Holder = Callable[[int], str]


def free(ports: Collection[int], addresses: Collection[str], own: Collection[int], holder: Holder) -> Iterator[Finding]:
    """Try to bind each port on each address, without keeping it; the running class holds the `own` ones."""
    families = []
    taken: dict[int, str] = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        name = "IPv6" if family == socket.AF_INET6 else "IPv4"
        trouble = {port: why for port in ports if port not in own and (why := bind_trouble(family, address, port))}
        if trouble and set(trouble.values()) <= {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            if address in WILDCARDS:
                yield ok("ports", f"{name} is switched off on this host; the class will do without it")
            else:
                yield problem("ports", f"{address} is not an address of this host", "Correct web.bind.")
            continue
        families.append(name if address in WILDCARDS else address)
        taken |= {port: name for port in trouble if port not in taken}
    for port, name in sorted(taken.items()):
        is_front = port == min(ports)
        yield (problem if is_front else warning)(
            "ports",
            f"port {port} is taken on {name} by {holder(port)}",
            "End that program or choose another web.port."
            if is_front
            else "End that program; a student without a port yet gets another one.",
        )
    if not taken and families:
        yield ok("ports", f"{in_words(ports)} can be bound on {' and '.join(dict.fromkeys(families))}")


def bind_trouble(family: int, address: str, port: int) -> int:
    """The errno of a bind, 0 if it works. Never listens: even with SO_REUSEADDR a bind fails beside a listener."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as error:
        return error.errno or errno.EADDRINUSE
    return 0


def holder_of(port: int) -> str:
    """A description of the program that has the port; root sees all accounts' programs."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "another program"
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {connection.pid}, {_user(process.uids().real)})"
            except psutil.NoSuchProcess:
                continue
    return "another program"


def other_courses(ports: Collection[int], others: Mapping[str, Collection[int]]) -> Iterator[Finding]:
    """`others`: every other course's ports."""
    for course, theirs in others.items():
        shared = set(ports) & set(theirs)
        if shared:
            yield problem(
                "ports",
                f"{in_words(shared)} belong to the course {course}",
                f"Choose a web.port above {max(theirs)}.",
            )


def ephemeral(ports: Collection[int], local_range: str, reserved: str, course: str) -> Finding:
    """Whether outgoing connections may use our ports first (ip-sysctl: ip_local_port_range, _reserved_ports)."""
    low, high = (int(word) for word in local_range.split()[:2])
    kept = {
        port
        for first, last in re.findall(r"([0-9]+)(?:-([0-9]+))?", reserved)
        for port in range(int(first), int(last or first) + 1)
    }
    exposed = {port for port in ports if low <= port <= high} - kept
    if not exposed:
        return ok("outgoing connections", f"use {low}-{high}, and leave the class's ports alone")
    wanted = in_words(kept | exposed).replace(", ", ",")
    file = f"/etc/sysctl.d/60-nblauncher-{course}.conf"
    return warning(
        "outgoing connections",
        f"{in_words(exposed)} are in the range {low}-{high}, from which any program's connection may take them first",
        f"Run `echo net.ipv4.ip_local_reserved_ports={wanted} > {file} && sysctl --system`, or choose a web.port "
        f"below {low - len(ports)}.",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
