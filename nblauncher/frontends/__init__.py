"""How students reach their servers: addresses, certificates and nginx's config. `FrontEnd` is one of the three seams.

`direct` gives each student's server a port; `nginx` has one process with one key in front of all of them.

Run by: root, for as long as the command takes.
May import: config, system.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from nblauncher.frontends.direct import is_address
from nblauncher.model import Route

__all__ = ["FrontEnd", "is_address"]


class FrontEnd(Protocol):
    """The addresses of a class: pure answers from the settings and the host's names."""

    @property
    def host(self) -> str:
        """The host part of every address."""
        ...

    @property
    def front_page(self) -> str:
        """Where students start, `https://HOST:PORT/`."""
        ...

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every name and address that a browser may use; the certificates cover all of them."""
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
        """`names`, and wildcards for the students' own host names, for a server's certificate."""
        ...

    def inner_name(self, username: str) -> str:
        """The name of which the proxy expects a certificate from the student's server on another host; "" without a
        proxy.
        """
        ...

    def public_ports(self, students: Mapping[str, int]) -> dict[int, str]:
        """The public ports: port → username, "" for the front page."""
        ...

    @property
    def routing(self) -> str:
        """How the proxy tells students apart (web.routing); "" without a proxy."""
        ...

    def own_label(self, username: str) -> str:
        """What stands before the class's name in the student's own host name; "" where students have none."""
        ...

    def certified(self, students: Mapping[str, int]) -> tuple[str, ...]:
        """Names besides web.names that the administrator's certificate must cover."""
        ...

    def require(self, usernames: Iterable[str]) -> None:
        """InputError when some of these students cannot be reached in this way."""
        ...

    def front_page_for(self, username: str) -> str:
        """The front page with the student's name filled in: the `url` column of the credentials file."""
        ...

    def route(self, username: str, port: int) -> Route:
        """The address of the student's server, given its port in the ledger."""
        ...
