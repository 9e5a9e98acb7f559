"""The page about the class CA: its fingerprint, the hosts for which it vouches, and the steps for each system."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from markupsafe import Markup
from tornado.web import HTTPError

from nblauncher.web.pages import Page

SYSTEMS = ("windows", "macos", "firefox", "linux", "chromebook", "ios", "android")
"""Each has its steps among the texts."""

_SIGNS = (
    ("android", r"Android"),
    ("ios", r"iPhone|iPad|iPod"),
    ("firefox", r"Firefox/"),
    ("windows", r"Windows NT"),
    ("chromebook", r"\bCrOS\b"),
    ("macos", r"Macintosh|Mac OS X"),
    ("linux", r"Linux|X11"),
)


def system_of(user_agent: str) -> str:
    """The visitor's, as the browser says; empty if it does not. An iPad may call itself a Mac."""
    return next((system for system, sign in _SIGNS if re.search(sign, user_agent[:500])), "")


def reachable(hosts: Iterable[str], first: str) -> list[str]:
    """Those that lead here from another computer, the class's own first; all of them if none does."""
    ordered = sorted(hosts, key=lambda host: (host != first, host))
    return [host for host in ordered if not _is_loopback(host)] or ordered


def thumbprint(pem: bytes) -> str:
    """As Windows shows it: SHA-1, in lower case."""
    der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
    return hashlib.sha1(der, usedforsecurity=False).hexdigest()


def as_code(words: Iterable[str]) -> Markup:
    return Markup(", ").join(Markup("<code>{}</code>").format(word) for word in words)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Certificate(Page):
    """How to trust the class CA, and its fingerprint."""

    async def get(self, *arguments: str) -> None:
        of = self.front_page.of
        if of.ca_pem is None:
            raise HTTPError(404)
        self.show(
            "certificate.html",
            hosts=as_code(reachable(of.hosts, of.host)),
            file=f"{of.course}-ca.crt",
            thumbprint=as_code([thumbprint(of.ca_pem)]),
            systems=SYSTEMS,
            own_system=system_of(self.request.headers.get("User-Agent", "")),
        )


class CertificateFile(Page):
    """The CA's certificate as a file; the type makes phones and Firefox offer to install it. Windows opens it only
    when it is called .crt.
    """

    async def get(self, *arguments: str) -> None:
        if self.front_page.of.ca_pem is None:
            raise HTTPError(404)
        self.set_header("Content-Type", "application/x-x509-ca-cert")
        name = urlencode({"filename": f"{self.front_page.of.course}-ca.{arguments[0]}"})
        self.set_header("Content-Disposition", f"attachment; {name}")
        self.finish(self.front_page.of.ca_pem)


ROUTES: Mapping[str, type[Page]] = {r"/ca\.html": Certificate, r"/ca\.(pem|crt)": CertificateFile}
