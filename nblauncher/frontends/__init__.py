"""How students reach their servers. `FrontEnd` is one of the three seams.

`direct` gives each student's server a port; `nginx` has one process with one key in front of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from nblauncher.frontends.direct import is_address
from nblauncher.frontends.nginx_config import AWAY, CLOSED, Proxied
from nblauncher.frontends.nginx_config import Student as ProxiedStudent
from nblauncher.frontends.nginx_config import render as render_nginx
from nblauncher.model import Route

__all__ = ["AWAY", "CLOSED", "FrontEnd", "Proxied", "ProxiedStudent", "is_address", "render_nginx"]


class FrontEnd(Protocol):
    """The addresses of a class: pure answers from settings and from what the host is called."""

    @property
    def host(self) -> str:
        """What stands in every address."""
        ...

    @property
    def front_page(self) -> str:
        """Where students begin, `https://HOST:PORT/`."""
        ...

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every name and address by which a browser may come; all of them stand in the certificates."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts that are names, for certificates."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """The hosts that are addresses, for certificates."""
        ...

    @property
    def is_proxy(self) -> bool:
        """Whether servers and front page listen on unix sockets behind a process that has the ports and the key."""
        ...

    @property
    def leaf_names(self) -> tuple[str, ...]:
        """`names`, and what stands for the students' own names, for a server's certificate."""
        ...

    def public_ports(self, students: Mapping[str, int]) -> dict[int, str]:
        """The ports that are open to everybody, and whose each is; "" is the front page's."""
        ...

    def certified(self, students: Mapping[str, int]) -> tuple[str, ...]:
        """What browsers will ask for: a certificate that somebody else made must be good for all of it."""
        ...

    def require(self, usernames: Iterable[str]) -> None:
        """InputError when these students cannot all be reached in this way."""
        ...

    def front_page_for(self, username: str) -> str:
        """The front page with the student's name filled in: the `url` column of the credentials file."""
        ...

    def route(self, username: str, port: int) -> Route:
        """Where the student's own server is, given the port in the ledger."""
        ...
