"""How a visitor came: which of our hosts, and whether another site sent the browser. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Arrival:
    """The host by which the browser came. Redirects and forms lead nowhere else."""

    host: str
    """Canonical: lower case, addresses without brackets."""
    authority: str
    """As the browser wrote it, with its port."""

    @property
    def in_url(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def arrival(header: str | None, hosts: Collection[str]) -> Arrival | None:
    """How the browser came according to its Host header; None when that is not one of our hosts.

    The port may be any: a port forwarding has its own. Names decide, against DNS rebinding.
    """
    match = _HOST.fullmatch(header or "")
    if match is None:
        return None
    host = _canonical(match["host"])
    return Arrival(host, match[0].lower()) if host in hosts else None


def is_foreign(origin: str | None, fetch_site: str | None, own_origin: str) -> bool:
    """Whether another site made the browser send this request.

    Neither header means no browser. `same-site` is foreign too: students' servers are the same site, on other ports.
    """
    if origin is not None and origin.lower() != own_origin:
        return True
    return fetch_site is not None and fetch_site not in ("same-origin", "none")


def form_target(scheme: str, host: str, port: int) -> str:
    """The CSP source that lets a form go to this origin only.

    CSP's grammar has no v6 addresses (CSP3, section 2.3.1), so for those the scheme is all that can be said.
    """
    return f"{scheme}:" if ":" in host else f"{scheme}://{host}:{port}"


def _canonical(host: str) -> str:
    text = host.lower().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text.removesuffix(".")
