"""What those learn who have not signed in, and how far a hostile student's server reaches: with every front end."""

from __future__ import annotations

import contextlib
import pwd
import re
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nblauncher.model import Account
from nblauncher.supervisor import client
from nblauncher.system import workers
from tests.classroom import Classroom
from tests.jupyter_client import JupyterClient

pytestmark = pytest.mark.system

ADA, EVE, BOB = "nbtzada", "nbtzeve", "nbtzbob"
"""eve's server is hostile, bob's is not running."""
PORT = 25010
FIRST_UID = 29300
HOST = "class.example.org"
NGINX = pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="NO NGINX")
PROXIED = [
    pytest.param("ports", marks=NGINX),
    *(pytest.param(routing, marks=[NGINX, pytest.mark.slow]) for routing in ("hosts", "paths")),
]

HOSTILE = {
    "X-Accel-Redirect": "/",
    "X-Accel-Buffering": "no",
    "X-Accel-Limit-Rate": "1",
    "X-Accel-Expires": "3600",
    "X-Accel-Charset": "koi8-r",
    "X-Sendfile": "/etc/passwd",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "Public-Key-Pins": 'pin-sha256="x"; max-age=100',
    "Expect-CT": "max-age=100",
    "Alt-Svc": 'h2=":25013"; ma=86400',
    "Clear-Site-Data": '"*"',
    "Service-Worker-Allowed": "/",
    "Origin-Agent-Cluster": "?1",
    "NEL": '{"report_to": "x"}',
    "Report-To": '{"group": "x"}',
    "Accept-CH": "Sec-CH-UA-Model",
    "WWW-Authenticate": 'Basic realm="the class"',
}
COOKIES = (
    f"nblauncher-{ADA}-{PORT + 1}=stolen; Path=/",
    f"nblauncher-{ADA}-{PORT + 1}=stolen; Path=/user/{ADA}/",
    f"nblauncher-{EVE}-{PORT + 2}=own; Path=/; Domain={HOST}",
    "_xsrf=known; Path=/",
    f"nblauncher=a b; Path=/; Domain={HOST}",
    "__Host-session=1; Path=/; Secure",
    "__Secure-x=1; Path=/; Secure",
    "bare=1",
)
CONFIG = f"""
import tornado.http1connection
write = tornado.http1connection.HTTP1Connection.write_headers
def hostile(self, start, headers, chunk=None):
    for name, value in {HOSTILE!r}.items():
        headers[name] = value
    for cookie in {COOKIES!r}:
        headers.add("Set-Cookie", cookie)
    return write(self, start, headers, chunk)
tornado.http1connection.HTTP1Connection.write_headers = hostile
"""


def make_hostile(home: str) -> None:
    """Runs as eve: her own config, which Jupyter's server runs."""
    folder = Path(home) / ".jupyter"
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_server_config.py").write_text(CONFIG)


@pytest.fixture(scope="module", params=["direct", *PROXIED])
def room(request) -> Iterator[Classroom]:
    made = Classroom("nbtx-strangers", [ADA, EVE, BOB], port=PORT, first_uid=FIRST_UID)
    web = {"port": PORT, "names": [HOST]}
    try:
        more = {} if request.param == "direct" else {"frontend": "nginx", "routing": request.param}
        made.write(web={**web, **more})
        made.run("setup")
        entry = pwd.getpwnam(EVE)
        eve = Account(EVE, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), entry.pw_shell)
        workers.run_as(eve, make_hostile, entry.pw_dir)
        made.run("launch", "--background")
        made.run("shutdown", "--only", BOB)
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def names_lead_here(monkeypatch):
    """As the name service would say it: every name of the class is this host."""
    real = socket.getaddrinfo

    def lead(host, *arguments, **keywords):
        name = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if name and name.endswith("example.org") else host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", lead)


def routing(room: Classroom) -> str:
    return room.config["web"].get("routing", "direct")


def port_of(room: Classroom, name: str) -> int:
    return room.port + 1 + room.names.index(name) if routing(room) in ("direct", "ports") else room.port


def host_of(room: Classroom, name: str) -> str:
    return f"{name}.{HOST}" if routing(room) == "hosts" else HOST


def open_ports(room: Classroom) -> list[int]:
    """With `direct` without eve's, whose own server says whatever she likes."""
    return sorted({room.port, port_of(room, ADA)} | ({port_of(room, EVE)} if routing(room) != "direct" else set()))


def said(port: int, request: bytes, name: str = HOST, *, is_plain: bool = False) -> bytes:
    """All that comes back for these bytes."""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        if not is_plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            one = stack.enter_context(context.wrap_socket(one, server_hostname=name))
        answer = b""
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):  # whoever hangs up has said all that it says
            one.sendall(request)
            while part := one.recv(65536):
                answer += part
        return answer


def request(target: str, host: str, *, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


TARGETS = (
    *("/", "//", "/user", "/user/", "/login", "/logout", "/tree", "/lab", "/api", "/api/status", "/favicon.ico"),
    *(
        "/static/style/style.min.css",
        "/nowhere",
        "/nblauncher/ticket",
        "/nblauncher-away.html",
        "/%2e%2e/",
        "/robots.txt",
    ),
    *("/?next=/", "/user/nbtxnobody/", "/user/nbtxnobody", "/user/nbtxnobody/api", "/nbtxnobody", "/.well-known/x"),
)
UPGRADE = "Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"


def strangers_requests(host: str) -> Iterator[bytes]:
    for target in TARGETS:
        yield request(target, host)
        yield request(target, host, more=UPGRADE)
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "TRACE"):
        for target in ("/", "/user/", "/login"):
            yield request(target, host, method=method, more="Content-Length: 0\r\n")
    yield request("*", host, method="OPTIONS")
    yield request(f"https://{host}/", host)
    yield request("/", "else.example.org")
    yield request("/", "")
    yield request("/", host, more="X: " + "x" * 100_000 + "\r\n")
    yield b"GET / HTTP/1.0\r\n\r\n"
    yield b"nonsense\r\n\r\n"


def test_nobody_who_is_not_signed_in_learns_a_name_at_any_port(room):
    hosts = [HOST, f"nbtxnobody.{HOST}"] if routing(room) == "hosts" else [HOST]
    heard = 0
    for port in open_ports(room):
        for host in hosts:
            for sent in strangers_requests(host):
                for is_plain in (False, True):
                    answer = said(port, sent, host, is_plain=is_plain)
                    heard += bool(answer)
                    found = [name for name in room.names if name.encode() in answer]
                    assert not found, (port, sent[:200], answer)
            certificate = ssl.get_server_certificate(("127.0.0.1", port))
            assert not any(name.encode() in ssl.PEM_cert_to_DER_cert(certificate) for name in room.names)
    assert heard > 100


def test_a_students_port_leads_to_the_front_page(room):
    host = host_of(room, ADA)
    if routing(room) == "paths":
        assert b"Sign in" in said(room.port, request("/", host))
        return
    answer = said(port_of(room, ADA), request("/", f"{host}:{port_of(room, ADA)}"), host)
    assert answer.startswith(b"HTTP/1.1 302 ") and f"\r\nLocation: https://{HOST}:{PORT}/\r\n".encode() in answer


def comparable(answer: bytes, name: str) -> bytes:
    return re.sub(rb"\r\n(Date|Etag): [^\r]*", b"", answer).replace(name.encode(), b"NAME")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_a_server_that_does_not_run_confirms_no_name(room, method):
    if routing(room) in ("direct", "ports"):
        paths = ("", "/tree")
    else:
        paths = ("user/{}", "user/{}/", "user/{}/tree?a=b", "user/{}/api", "user/{}/nblauncher/ticket", "{}", "{}/", "")
    for path in paths:
        answers = []
        for name in (BOB, "nbtznix"):
            host = f"{name}.{HOST}" if routing(room) == "hosts" else HOST
            sent = request("/" + path.format(name), host, method=method, more="Content-Length: 0\r\n")
            answers.append(comparable(said(room.port, sent, host), name))
        assert answers[0] == answers[1], path
        assert path.count("/") < 2 or answers[0].startswith(b"HTTP/1.1 503 ")


def test_a_closed_front_page_says_so_at_once_and_opens_again(room):
    supervisor = client.connect(room.paths)
    assert supervisor is not None
    with supervisor:
        supervisor.stop_front_page()
    answer = said(room.port, request("/", HOST))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"front page is closed" in answer
    host = host_of(room, ADA)
    assert b"version" in said(port_of(room, ADA), request(f"/user/{ADA}/api", host), host)
    room.run("launch", "--background")
    room.run("shutdown", "--only", BOB)
    assert b"Sign in" in said(room.port, request("/", HOST))


@pytest.mark.parametrize("room", PROXIED, indirect=True)
def test_a_hostile_server_reaches_no_further_than_its_own_path(room):
    base = f"https://{host_of(room, EVE)}:{port_of(room, EVE)}/user/{EVE}/"
    kept = {f"nblauncher-{EVE}-{PORT + 2}", "_xsrf"}
    with httpx.Client(verify=ssl.create_default_context(cafile=str(room.paths.tls / "ca.pem")), timeout=60) as visitor:
        for path in ("", "login", "api", "nowhere", "static/favicons/favicon.ico", "nblauncher/ticket"):
            for method in ("GET", "POST"):
                answer = visitor.request(method, base + path)
                assert answer.status_code < 500, "the redirection was not obeyed"
                assert not HOSTILE.keys() & {name.title() for name in answer.headers}
                assert not {name.lower() for name in HOSTILE} & {name.lower() for name in answer.headers}, path
                for cookie in answer.headers.get_list("set-cookie"):
                    name, _, rest = cookie.partition("=")
                    assert name in kept and f"Path=/user/{EVE}/" in rest and "domain" not in rest.lower(), cookie
                    assert name == "_xsrf" or "stolen" not in rest
        assert {one.path for one in visitor.cookies.jar} <= {f"/user/{EVE}/"}
        assert b"Sign in" in visitor.get(base + "api").content or visitor.get(base + "api").json()["version"]


@pytest.mark.parametrize("room", PROXIED, indirect=True)
def test_signing_in_and_out_works_behind_nginx_and_lasts(room):
    with JupyterClient(ADA, port_of(room, ADA), room.paths.tls / "ca.pem", host_of(room, ADA)) as one:
        answer = one.sign_in(room.credentials[ADA]["notebook_password"])
        (login,) = [cookie for cookie in one.http.cookies.jar if cookie.name.startswith("nblauncher-")]
        assert (login.path, login.secure, login.domain_specified) == (f"/user/{ADA}/", True, False)
        assert "HttpOnly" in answer.headers["set-cookie"] and login.expires is None
        assert one.http.get("api/status").status_code == 200
        one.log_out()
        one.sign_in(room.credentials[ADA]["notebook_password"], keep="1")
        (kept,) = [cookie for cookie in one.http.cookies.jar if cookie.name.startswith("nblauncher")]
        assert (kept.path, kept.name) == (login.path, login.name)
        assert 29 < (kept.expires - time.time()) / 86400 <= 30
        assert one.log_out().headers["location"] == f"https://{HOST}:{PORT}/{ADA}"
        assert not [cookie for cookie in one.http.cookies.jar if cookie.name.startswith("nblauncher-")]
        one.http.cookies.jar.set_cookie(kept)
        assert one.http.get("api/status").status_code == 403, "the server knows that it is over"
