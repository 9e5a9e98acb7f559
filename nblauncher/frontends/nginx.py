"""The `nginx` front end: what is where, for each of its three kinds of routes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nblauncher.config.settings import Settings
from nblauncher.errors import InputError
from nblauncher.frontends.direct import DirectFrontEnd, HostNames, direct, in_url, is_address
from nblauncher.model import Route

INNER = "localhost"
"""One of the class CA's names, like all that is below it. Browsers look up no other host for it (RFC 6761), so that a
student whose key is for a name below it cannot pose as anything that a browser visits.
"""

_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NginxFrontEnd(DirectFrontEnd):
    """Routes of a class behind a proxy of its own; `routing` is web.routing: ports, hosts or paths."""

    routing: str = "ports"

    @property
    def is_proxy(self) -> bool:
        return True

    @property
    def leaf_names(self) -> tuple[str, ...]:
        """With `hosts` routing every student has a host name below each of the class's names."""
        if self.routing != "hosts":
            return self.names
        return (*self.names, *(f"*.{name}" for name in self.names if "." in name))

    def inner_name(self, username: str) -> str:
        return f"{username}.{INNER}"

    def route(self, username: str, port: int) -> Route:
        base = {
            "ports": f"{self.scheme}://{in_url(self.host)}:{port}",
            "hosts": f"{self.scheme}://{username}.{self.host}:{self.front_port}",
            "paths": f"{self.scheme}://{in_url(self.host)}:{self.front_port}",
        }[self.routing]
        return Route(username, port, f"{base}/user/{username}/")

    def public_ports(self, students: Mapping[str, int]) -> dict[int, str]:
        """Only with `ports` routing do students have ports of their own."""
        own = {port: username for username, port in students.items()} if self.routing == "ports" else {}
        return {self.front_port: "", **own}

    def require(self, usernames: Iterable[str]) -> None:
        """InputError when a username cannot be a host name: RFC 1123 does not allow underscores."""
        if self.routing != "hosts":
            return
        problems = []
        if is_address(self.host) or "." not in self.host:
            problems.append(f"web.routing: hosts needs a name in web.names, and the class is reached by {self.host}")
        problems += [
            f"{username} cannot be a host name: it may have a-z, 0-9 and - inside only"
            for username in usernames
            if not _LABEL.fullmatch(username)
        ]
        if problems:
            raise InputError(problems, "Use `web.routing: ports`, or another username.")

    def own_label(self, username: str) -> str:
        return f"{username}." if self.routing == "hosts" else ""

    def certified(self, students: Mapping[str, int]) -> tuple[str, ...]:
        """Every name that browsers will use."""
        if self.routing != "hosts":
            return (self.host,)
        return (self.host, *(f"{username}.{self.host}" for username in students))


def nginx(settings: Settings, found: HostNames) -> NginxFrontEnd:
    """As `direct`, with web.routing. Pure."""
    plain = direct(settings, found)
    return NginxFrontEnd(plain.scheme, plain.host, plain.hosts, plain.front_port, settings.web.routing)
