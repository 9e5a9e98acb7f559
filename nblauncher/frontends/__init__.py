"""How students reach their servers. `FrontEnd` is one of the three seams; `direct` gives each student a port."""

from __future__ import annotations

from typing import Protocol

from nblauncher.model import Route


class FrontEnd(Protocol):
    """The addresses of a class: pure answers from settings and from what the host is called."""

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

    def front_page_for(self, username: str) -> str:
        """The front page with the student's name filled in: the `url` column of the credentials file."""
        ...

    def route(self, username: str, port: int) -> Route:
        """Where the student's own server is, given the port in the ledger."""
        ...
