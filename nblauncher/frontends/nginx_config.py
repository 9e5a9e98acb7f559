"""The config of a class's own nginx: one file, root's, made anew for each instance. Pure.

What is in it comes from the ledger and from settings that were checked: usernames, ports, addresses, paths of ours.
Two rules about students' servers: an answer reaches no further than the student's own path (no header that steers nginx
or holds for the whole host, no cookie but the two that we write ourselves), and without signing in nobody learns from
an answer who is in the class.
Sources: nginx.org/en/docs (ngx_http_core, proxy, upstream, ssl, map, limit_conn), RFC 6265 for cookies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nblauncher.clients import MAX_CONNECTIONS
from nblauncher.frontends.direct import in_url
from nblauncher.model import COOKIE_BEHIND_PROXY, KEEP_BEHIND_PROXY

AWAY, CLOSED = "away.html", "closed.html"

_HTTP = """\
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
error_log stderr warn;
pid {folder}/tmp/{name}.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  server_tokens off;
  default_type application/octet-stream;
  client_body_temp_path {folder}/tmp/body;
  proxy_temp_path {folder}/tmp/proxy;
  fastcgi_temp_path {folder}/tmp/fastcgi;
  uwsgi_temp_path {folder}/tmp/uwsgi;
  scgi_temp_path {folder}/tmp/scgi;
  client_header_timeout 10s;
  client_body_timeout 30s;
  send_timeout 60s;
  keepalive_timeout 65s;
  reset_timedout_connection on;
  large_client_header_buffers 4 16k;
  client_max_body_size 0;
  absolute_redirect off;
  limit_conn_zone $binary_remote_addr zone=address:4m;
  limit_conn address {per_address};
  map_hash_bucket_size 256;
  server_names_hash_bucket_size 256;
  # A WebSocket is the only other protocol. A request that wants none keeps its connection to the student's server.
  map $http_upgrade $websocket {{ default ""; "~*^websocket$" websocket; }}
  map $websocket $upgrade {{ default upgrade; "" ""; }}
  map $http_cookie $own_xsrf {{ default ""; "~(?:^|; ?)(?<xsrf>_xsrf=[^;]*)" $xsrf; }}
  proxy_http_version 1.1;
  proxy_redirect off;
  proxy_ignore_headers {ignored};
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  proxy_buffers 16 16k;
  proxy_buffer_size 32k;
  proxy_busy_buffers_size 64k;
  proxy_read_timeout 1d;
  proxy_send_timeout 60s;
  proxy_set_header Host $http_host;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-For "";
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Scheme $scheme;
  proxy_set_header Upgrade $websocket;
  proxy_set_header Connection $upgrade;
"""

_IGNORED = (
    "X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset "
    "Expires Cache-Control Set-Cookie Vary"
)
"""What nginx would otherwise obey; all that proxy_ignore_headers knows."""

_HIDDEN = (
    *("Set-Cookie", "Set-Cookie2"),
    *("Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-CT"),
    *("Alt-Svc", "Clear-Site-Data", "Service-Worker-Allowed", "Origin-Agent-Cluster"),
    *("NEL", "Report-To", "Reporting-Endpoints"),
    *("Accept-CH", "Accept-CH-Lifetime", "Critical-CH", "Use-As-Dictionary"),
    *("WWW-Authenticate", "Proxy-Authenticate", "Set-Login"),
    *("Secure-Session-Registration", "Sec-Session-Registration", "X-Sendfile"),
)
"""Headers that a browser keeps for the whole origin or host, or that ask for a password in the host's name. Jupyter
sends none of them but Set-Cookie, which we write ourselves: see `_COOKIES`.
"""

_COOKIES = """\
  map $uri $own_path {{ default ""; "~^(?<own>/user/[a-z][a-z0-9_-]*/)" $own; }}
  map $own_path $login_name {{
    default "";
{names}  }}
  map $upstream_cookie_{keep} $login_age {{ default ""; "1" " Max-Age=2592000;"; }}
  map $upstream_cookie_{inner} $new_login {{
    default "";
    '""' "$login_name=; Path=$own_path; Max-Age=0";
    "~^[!-+.-:<-\\[\\]-~-]+$" "$login_name=$upstream_cookie_{inner}; Path=$own_path;$login_age {flags}";
  }}
  map $upstream_cookie__xsrf $new_xsrf {{
    default "";
    '""' "_xsrf=; Path=$own_path; Max-Age=0";
    "~^[!-+.-:<-\\[\\]-~-]+$" "_xsrf=$upstream_cookie__xsrf; Path=$own_path; SameSite=Lax{secure}";
  }}
"""
"""The two cookies that a server may set, with attributes of ours. `""` is how Tornado clears one. A server behind nginx
calls its login cookie `nblauncher`, because a variable's name has no hyphen; browsers see the student's own name. That
it is to be kept for 30 days, the server says by a third, `nblauncher_keep=1`, which no browser gets to see.
"""

_TLS = """\
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:nblauncher:4m;
  ssl_session_timeout 1h;
  ssl_session_tickets off;
"""


@dataclass(frozen=True, slots=True)
class Student:
    """Who has a server: the port in the ledger, and the socket that it listens on."""

    username: str
    port: int
    socket: Path


@dataclass(frozen=True, slots=True)
class Proxied:
    """A class as its nginx must know it."""

    routing: str
    front_port: int
    front_socket: Path
    addresses: tuple[str, ...]
    """To listen on: web.bind, or the wildcards that the host has."""
    hosts: tuple[str, ...]
    """By which the front page is reached."""
    has_tls: bool
    http2_is_directive: bool
    """Since nginx 1.25.1 `http2 on;`, before it a word of `listen`."""
    students: tuple[Student, ...] = field(default_factory=tuple)


def render(proxied: Proxied, folder: Path, name: str, *, workers: int = 2) -> str:
    """The whole file. `folder` is the proxy's own; certificate and key are in it by this instance's `name`."""
    parts = [
        _HTTP.format(folder=folder, name=name, workers=workers, per_address=MAX_CONNECTIONS, ignored=_IGNORED),
        *(f"  proxy_hide_header {header};\n" for header in _HIDDEN),
        _cookies(proxied),
        _IS_OWN,
    ]
    if proxied.has_tls:
        parts.append(_TLS.format(certificate=folder / f"{name}.pem", key=folder / f"{name}.key"))
    parts.append(f"  upstream front {{ server unix:{proxied.front_socket}; keepalive 16; }}\n")
    # Nobody ever listens there: an unknown name is answered as a student whose server does not run.
    parts.append(f"  upstream nobody {{ server unix:{folder}/nobody.sock; keepalive 32; }}\n")
    for number, student in enumerate(proxied.students):
        parts.append(_upstream(number, student))
    parts += _servers(proxied, folder)
    return "".join(parts) + "}\n"


def _cookies(proxied: Proxied) -> str:
    secure = "; Secure" if proxied.has_tls else ""
    names = "".join(f"    /user/{one.username}/ {_login_name(one)};\n" for one in proxied.students)
    flags = f"HttpOnly; SameSite=Lax{secure}"
    return _COOKIES.format(inner=COOKIE_BEHIND_PROXY, keep=KEEP_BEHIND_PROXY, names=names, flags=flags, secure=secure)


def _servers(proxied: Proxied, folder: Path) -> Iterable[str]:
    numbered = list(enumerate(proxied.students))
    front = (
        f'    location / {{\n      proxy_set_header Cookie "";\n{_HEADERS}'
        "      proxy_set_header X-Nblauncher-Ends '$server_addr $server_port $remote_port';\n"
        f"      client_max_body_size 16k;\n      error_page 502 504 =503 /nblauncher-{CLOSED};\n"
        "      proxy_pass http://front;\n    }\n"
    )
    locations = {number: _location(number, student) for number, student in numbered}
    if proxied.routing == "paths":
        front += _UNKNOWN + "".join(locations.values())
    yield _server(proxied, folder, proxied.front_port, "default_server", "_", front)
    scheme = "https" if proxied.has_tls else "http"
    if proxied.routing == "ports":
        home = _elsewhere(f"{scheme}://$host:{proxied.front_port}/")
        for number, student in numbered:
            yield _server(proxied, folder, student.port, "default_server", "_", home + locations[number])
    if proxied.routing == "hosts":
        front_page = f"{scheme}://{proxied.hosts[0]}:{proxied.front_port}/"
        home = _elsewhere(front_page)
        for number, student in numbered:
            names = " ".join(f"{student.username}.{host}" for host in proxied.hosts)
            yield _server(proxied, folder, proxied.front_port, "", names, home + locations[number])
        anybody = " ".join(f"*.{host}" for host in proxied.hosts)
        yield _server(proxied, folder, proxied.front_port, "", anybody, home + _unknown_host(front_page))


def _elsewhere(front_page: str) -> str:
    """What a student's port or host answers outside of the student's own path, to anybody: no name."""
    return f"    location / {{ return 302 {front_page}; }}\n"


def _unknown_host(front_page: str) -> str:
    """What a host answers that is no student's: as one whose student's server does not run."""
    unless_own = f'if ($is_own = "") {{ return 302 {front_page}; }}'
    return (
        f'    location ~ "^/user/{_NAME}$" {{ {unless_own} {_SLASH} }}\n'
        f'    location ~ "^/user/{_NAME}/" {{ {unless_own} proxy_pass http://nobody; }}\n'
    )


_NAME = "[a-z][a-z0-9_-]{0,30}"
_SLASH = "return 302 $uri/$is_args$args;"
_UNKNOWN = f"""\
    location ~ "^/user/{_NAME}$" {{ {_SLASH} }}
    location ~ "^/user/{_NAME}/" {{ proxy_pass http://nobody; }}
"""
_IS_OWN = f"""\
  map $host$uri $is_own {{ default ""; "~^(?<label>{_NAME})\\.[^/]*/user/\\k<label>(/|$)" yes; }}
"""
"""Whether a host's own name stands in the path. `hosts` answers all names alike, known or not."""


def _server(proxied: Proxied, folder: Path, port: int, default: str, names: str, locations: str) -> str:
    words = " ".join(filter(None, (default, "ssl" if proxied.has_tls else "")))
    old_http2 = " http2" if proxied.has_tls and not proxied.http2_is_directive else ""
    lines = []
    for address in proxied.addresses:
        only = " ipv6only=on" if ":" in address and default else ""
        lines.append(f"    listen {in_url(address)}:{port} {words}{old_http2}{only};\n")
    if proxied.has_tls and proxied.http2_is_directive:
        lines.append("    http2 on;\n")
    if proxied.has_tls:
        # Plain HTTP to a TLS port: the same place, encrypted. Nothing that outlives the class (no 301, no HSTS).
        lines.append("    error_page 497 =307 https://$http_host$request_uri;\n")
    return (
        f"  server {{\n{''.join(lines)}    server_name {names};\n"
        f"    error_page 502 504 =503 /nblauncher-{AWAY};\n"
        f"{_said(folder, AWAY)}{_said(folder, CLOSED)}{locations}  }}\n"
    )


def _said(folder: Path, page: str) -> str:
    return (
        f"    location = /nblauncher-{page} {{ internal; alias {folder}/{page}; default_type text/html;"
        " add_header Cache-Control no-store always; }\n"
    )


def _upstream(number: int, student: Student) -> str:
    """Only what is the student's goes to the student's server: the login cookie, and Jupyter's _xsrf."""
    return (
        f"  upstream student{number} {{ server unix:{student.socket}; keepalive 32; }}\n"
        f'  map $http_cookie $login{number} {{ default "";'
        f' "~(?:^|; ?){_login_name(student)}=(?<of{number}>[^;]*)" "{COOKIE_BEHIND_PROXY}=$of{number}"; }}\n'
    )


def _location(number: int, student: Student) -> str:
    return (
        f"    location = /user/{student.username} {{ {_SLASH} }}\n"
        f"    location ^~ /user/{student.username}/ {{\n"
        "      add_header Set-Cookie $new_login always;\n      add_header Set-Cookie $new_xsrf always;\n"
        f'      proxy_set_header Cookie "$login{number}; $own_xsrf";\n'
        f"{_HEADERS}      proxy_pass http://student{number};\n    }}\n"
    )


def _login_name(student: Student) -> str:
    return f"nblauncher-{student.username}-{student.port}"


_HEADERS = "".join(
    f"      {line.strip()}\n"
    for line in _HTTP.splitlines()
    if line.strip().startswith("proxy_set_header") and " {{" not in line
)
"""A location with one header of its own inherits none (ngx_http_proxy_module, proxy_set_header)."""
