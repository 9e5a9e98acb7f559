"""The config of a class's own nginx: one file owned by root, written for each instance. Pure.

All of its values come from the ledger and from checked settings: usernames, ports, addresses, our own paths.
Two rules about students' servers: an answer affects only the student's own path (no header that controls nginx or
applies to the whole host, no cookie except the two that we write ourselves), and without signing in no client learns
from an answer which students are in the class.
Servers on other hosts speak TLS, each with a certificate for a name of its student alone: whatever else answers where
a server was, as another student's would, gets no request and no cookie.
Sources: nginx.org/en/docs (ngx_http_core, proxy, upstream, ssl, map, limit_conn), RFC 6265 for cookies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nblauncher.frontends.direct import in_url
from nblauncher.model import COOKIE_BEHIND_PROXY, KEEP_BEHIND_PROXY, USERNAME
from nblauncher.system.clients import MAX_CONNECTIONS

if TYPE_CHECKING:
    import jinja2

AWAY, CLOSED = "away.html", "closed.html"

HANDSHAKE = 15
"""Seconds that a server on another host may take for the TLS handshake, perhaps because it is only starting. After that
the visitor has a page that looks again.
"""

_HEADERS = (
    "Host $http_host",
    "X-Real-IP $remote_addr",
    'X-Forwarded-For ""',
    "X-Forwarded-Proto $scheme",
    "X-Scheme $scheme",
    "Upgrade $websocket",
    "Connection $upgrade",
)
"""proxy_set_header, for the class and again in each location: a location that sets any header inherits none
(ngx_http_proxy_module).
"""

_IGNORED = (
    "X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset "
    "Expires Cache-Control Set-Cookie Vary"
)
"""Headers that nginx would otherwise obey: all that proxy_ignore_headers accepts."""

_HIDDEN = (
    *("Set-Cookie", "Set-Cookie2"),
    *("Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-CT"),
    *("Alt-Svc", "Clear-Site-Data", "Service-Worker-Allowed", "Origin-Agent-Cluster"),
    *("NEL", "Report-To", "Reporting-Endpoints"),
    *("Accept-CH", "Accept-CH-Lifetime", "Critical-CH", "Use-As-Dictionary"),
    *("WWW-Authenticate", "Proxy-Authenticate", "Set-Login"),
    *("Secure-Session-Registration", "Sec-Session-Registration", "X-Sendfile"),
)
"""Headers that a browser applies to the whole origin or host, or that ask for a password in the host's name. Jupyter
sends none of them except Set-Cookie, which we write ourselves: see the template.
"""

_LABEL = USERNAME.pattern
"""A username, as a pattern."""


@dataclass(frozen=True, slots=True)
class Student:
    """A student with a server: its port in the ledger, and the socket that it listens on."""

    username: str
    port: int
    socket: Path
    inner_name: str = ""
    """What the certificate of the server must be for, with `Proxied.authorities`."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """A class as its nginx must know it."""

    routing: str
    front_port: int
    front_socket: Path
    addresses: tuple[str, ...]
    """Addresses to listen on: web.bind, or the host's wildcards."""
    hosts: tuple[str, ...]
    """Names of the front page."""
    has_tls: bool
    http2_is_directive: bool
    """Since nginx 1.25.1 `http2 on;`; before that it was a parameter of `listen`."""
    students: tuple[Student, ...] = field(default_factory=tuple)
    authorities: bytes = b""
    """PEM of those that may vouch for students' servers; empty: servers are on this host and speak no TLS."""


def render(proxied: Proxied, folder: Path, name: str, *, workers: int = 2) -> str:
    """The whole file. `folder` is the proxy's own; certificate, key and authorities are in it under this instance's
    `name`.

    Of the two cookies that a server may set, nginx rewrites the attributes; `""` is how Tornado clears one. A server
    behind nginx calls its login cookie `nblauncher`, because a variable's name has no hyphen; browsers see the
    student's own name. That it should last 30 days, the server signals by a third cookie, `nblauncher_keep=1`, which
    never reaches a browser.
    """
    secure = "; Secure" if proxied.has_tls else ""
    return _template().render(
        workers=workers,
        folder=folder,
        name=name,
        per_address=MAX_CONNECTIONS,
        ignored=_IGNORED,
        hidden=_HIDDEN,
        headers=_HEADERS,
        label=_LABEL,
        away=AWAY,
        closed=CLOSED,
        inner_cookie=COOKIE_BEHIND_PROXY,
        keep_cookie=KEEP_BEHIND_PROXY,
        secure=secure,
        flags=f"HttpOnly; SameSite=Lax{secure}",
        routing=proxied.routing,
        scheme="https" if proxied.has_tls else "http",
        has_tls=proxied.has_tls,
        http2_is_directive=proxied.http2_is_directive,
        front_port=proxied.front_port,
        front_socket=proxied.front_socket,
        addresses=[in_url(address) for address in proxied.addresses],
        hosts=proxied.hosts,
        inner_scheme="https" if proxied.authorities else "http",
        handshake=HANDSHAKE,
        any_host=" ".join(f"*.{host}" for host in proxied.hosts),
        students=[_values(number, student, proxied) for number, student in enumerate(proxied.students)],
    )


def _values(number: int, student: Student, proxied: Proxied) -> dict[str, object]:
    return {
        "number": number,
        "username": student.username,
        "port": student.port,
        "socket": student.socket,
        "inner_name": student.inner_name,
        "login_name": f"nblauncher-{student.username}-{student.port}",
        "hosts": " ".join(f"{student.username}.{host}" for host in proxied.hosts),
    }


@cache
def _template() -> jinja2.Template:
    """Nothing is escaped: the values come from the ledger and from checked settings."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("nginx.conf.jinja")
