"""The `direct` front end: the front page on `web.port`, each student's server on a public port of its own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.config.settings import Settings
from nblauncher.model import Route

LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class HostNames:
    """What the host is called on the network, as `survey_host_names` found it."""

    full_name: str = ""
    resolved: tuple[str, ...] = ()
    """The addresses that `full_name` resolves to, as this host sees it."""
    addresses: tuple[str, ...] = ()
    """The host's own addresses, the one of the default route first; loopback and link-local ones left out."""


@dataclass(frozen=True, slots=True)
class DirectFrontEnd:
    """Routes of a class without a proxy. `host` is used in every address; requests for any of `hosts` are answered."""

    scheme: str
    host: str
    hosts: tuple[str, ...]
    front_port: int

    @property
    def front_page(self) -> str:
        return f"{self.scheme}://{in_url(self.host)}:{self.front_port}/"

    def front_page_for(self, username: str) -> str:
        return f"{self.front_page}{username}"

    def route(self, username: str, port: int) -> Route:
        return Route(username, port, f"{self.scheme}://{in_url(self.host)}:{port}/user/{username}/")

    @property
    def is_proxy(self) -> bool:
        return False

    @property
    def leaf_names(self) -> tuple[str, ...]:
        return self.names

    def inner_name(self, _username: str) -> str:
        """The browser itself speaks to the server, and expects the class's name."""
        return ""

    def public_ports(self, students: Mapping[str, int]) -> dict[int, str]:
        return {self.front_port: "", **{port: username for username, port in students.items()}}

    def require(self, usernames: Iterable[str]) -> None:
        """Every student can have a port."""

    @property
    def routing(self) -> str:
        return ""

    def own_label(self, _username: str) -> str:
        return ""

    def certified(self, _students: Mapping[str, int]) -> tuple[str, ...]:
        """Nothing besides web.names: the name in the addresses may be one that we guessed."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts that are names, for certificates."""
        return tuple(host for host in self.hosts if not is_address(host))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The hosts that are addresses, for certificates."""
        return tuple(host for host in self.hosts if is_address(host))


def direct(settings: Settings, found: HostNames) -> DirectFrontEnd:
    """The front end of a course on a host with these names. Pure."""
    wanted = tuple(canonical(name) for name in settings.web.names)
    bound = tuple(canonical(address) for address in settings.web.bind)
    has_wildcard = not bound or any(is_address(address) and _is_wildcard(address) for address in bound)
    reachable = tuple(map(canonical, found.addresses)) if has_wildcard else bound
    full_name = canonical(found.full_name)
    own = (*wanted, *((full_name,) if full_name and not is_address(full_name) else ()), *reachable)
    return DirectFrontEnd(
        scheme="http" if settings.tls.mode == "off" else "https",
        host=_choose_host(wanted, full_name, frozenset(map(canonical, found.resolved)), reachable),
        hosts=tuple(dict.fromkeys((*own, "localhost", *LOOPBACK))),
        front_port=settings.web.port,
    )


def survey_host_names() -> HostNames:
    """Look at the host: full name, what it resolves to, own addresses. Asks the resolver; changes nothing."""
    full_name = socket.getfqdn()
    return HostNames(full_name, _resolve(full_name), own_addresses())


def own_addresses(interfaces: Path = Path("/sys/class/net")) -> tuple[str, ...]:
    """The addresses of the host's interfaces that others can reach, the one of the default route first. Those of
    bridges between containers or virtual machines of this host (docker0, virbr0) come and go, and are not among them.
    """
    import psutil

    found = [
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6) and is_address(address.address)
        if not _is_inner_bridge(interfaces, name)
    ]
    return tuple(dict.fromkeys(text for text in (*_default_route_addresses(), *found) if _is_reachable(text)))


def _is_inner_bridge(interfaces: Path, name: str) -> bool:
    """Whether it is a bridge, and no port of it is a network card or lies on one, as a bond or a VLAN does (Linux:
    Documentation/ABI/testing/sysfs-class-net).
    """
    if not (interfaces / name / "bridge").is_dir():
        return False
    try:
        ports = [interfaces / port.name for port in (interfaces / name / "brif").iterdir()]
        return not any((port / "device").exists() or any(port.glob("lower_*")) for port in ports)
    except OSError:  # it went away meanwhile
        return True


def canonical(host: str) -> str:
    """One spelling per host: names in lower case without a final dot, addresses as `ipaddress` writes them."""
    text = host.strip().lower().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text.removesuffix(".")


def is_address(host: str) -> bool:
    """Whether the host is a v4 or v6 address (without brackets and without a zone)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def in_url(host: str) -> str:
    """The host as it stands in a URL: v6 addresses in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _choose_host(wanted: tuple[str, ...], full_name: str, resolved: frozenset[str], addresses: tuple[str, ...]) -> str:
    """The first of web.names, the full name if it leads here, or the address (docs/reference.md, notebooks.cfg)."""
    if wanted:
        return wanted[0]
    # Debian writes the host's name to /etc/hosts as 127.0.1.1: it then means nothing to a student's laptop.
    if full_name and resolved & frozenset(addresses):
        return full_name
    return addresses[0] if addresses else "localhost"


def _resolve(name: str) -> tuple[str, ...]:
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _default_route_addresses() -> Iterable[str]:
    """The source address that the kernel would use towards the documentation networks; nothing is sent."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                yield str(probe.getsockname()[0])
        except OSError:
            continue


def _is_reachable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)


def _is_wildcard(text: str) -> bool:
    return ipaddress.ip_address(text).is_unspecified
