"""One student's sign-ins, tried for real: `su -l` through a pty, and the front page up to the student's own server.

Runs as the front page's account, which has no way around a password, in a process for each student. What answers may
be hostile: a login shell runs the student's files, and the server is the student's process. So every answer is read up
to a limit, and the caller ends us after LONGEST seconds.
"""

from __future__ import annotations

import contextlib
import html
import http.client
import re
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from nblauncher.model import CHECKS_LOGINS

LONGEST = 120.0
"""Seconds for both, starting the student's server included."""

_SHELL = 20.0
_TRIES = 6
_REQUEST = 20.0
_SERVER = 60.0
_MOST_OUTPUT = 1 << 20
_MOST_KEPT = 8192
_MOST_SHOWN = 200
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TERM": "dumb"}
_PROMPT = re.compile(rb"password[^\n]*:\s*$", re.IGNORECASE)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
_TARGET = re.compile(r'<form method="post" action="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Door:
    """The front page: its URL, where to connect, and the class CA (PEM); without one the certificate is not checked."""

    url: str
    address: str
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A student, and the passwords to try; None: not that one."""

    username: str
    uid: int
    system: str | None = field(repr=False)
    notebook: str | None = field(repr=False)
    door: Door


def attempt(wanted: Attempt) -> dict[str, str]:
    """`system` and `notebook`, as far as they were tried → why the student could not get in; empty: it worked."""
    found = {}
    if wanted.system is not None:
        found["system"] = _log_in(wanted)
    if wanted.notebook is not None:
        try:
            found["notebook"] = _sign_in(wanted)
        except (OSError, http.client.HTTPException, ValueError) as error:
            found["notebook"] = f"no answer ({type(error).__name__}: {str(error)[:_MOST_SHOWN]})"
    return found


def _log_in(wanted: Attempt) -> str:
    import pexpect

    # Not with -c: then su makes a session of its own, which would outlive us if a startup file waits.
    child = pexpect.spawn(
        "su", ["-l", wanted.username], env=_ENVIRONMENT, cwd="/", timeout=_SHELL, preexec_fn=_heed_signals
    )
    secret = secrets.token_hex(8)
    try:
        asked = _read(child, _PROMPT)
        if not _PROMPT.search(asked):
            return f"su asks for no password{_last(asked, secret)}"
        child.waitnoecho(timeout=_SHELL)
        child.sendline(wanted.system or "")
        wait_for = re.compile(rf"nbl-{secret}-([0-9]+)\s".encode("ascii"))
        # The quotes keep the terminal's echo from looking like the answer.
        said = _ask_shell(child, f"echo nbl-'{secret}'-$(id -u); exit", wait_for)
        if found := wait_for.search(said):
            return "" if int(found[1]) == wanted.uid else f"the shell has uid {int(found[1])}, not {wanted.uid}"
        if child.isalive():
            return f"the password is right, and there is no shell within {_SHELL:.0f} s{_last(said, secret)}"
        return f"the password is right, and the login ended with status {child.exitstatus}{_last(said, secret)}"
    finally:
        child.close(force=True)


def _heed_signals() -> None:
    """The end of the terminal ends the login. We ignore these signals, which a program would inherit."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def _ask_shell(child: Any, line: str, until: re.Pattern[bytes]) -> bytes:
    """Type the line again until it is answered: what is typed before the shell reads may be discarded, by su, a startup
    file or the shell (termios(3), TCSAFLUSH).
    """
    said = b""
    for _ in range(_TRIES):
        if until.search(said) or not child.isalive():
            break
        with contextlib.suppress(OSError):  # the terminal is gone: its last words can be read
            child.sendline(line)
        said = (said + _read(child, until, _SHELL / _TRIES))[-_MOST_KEPT:]
    return said


def _read(child: Any, until: re.Pattern[bytes], longest: float = _SHELL) -> bytes:
    """The output until the pattern, the end, a limit of bytes, or the deadline. Only its last part is kept."""
    import pexpect

    deadline, seen, kept = time.monotonic() + longest, 0, b""
    while not until.search(kept) and seen < _MOST_OUTPUT and (left := deadline - time.monotonic()) > 0:
        try:
            part = child.read_nonblocking(4096, timeout=left)
        except (pexpect.TIMEOUT, pexpect.EOF):
            break
        seen, kept = seen + len(part), (kept + part)[-_MOST_KEPT:]
    return kept


def _last(output: bytes, secret: str) -> str:
    """The last line, without our own."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if secret not in line]
    last = next((line for line in reversed(lines) if line), "")
    return f": {last[-_MOST_SHOWN:]}" if last else ""


@dataclass
class _Browser:
    door: Door
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, url: str, fields: Mapping[str, str] | None = None) -> tuple[int, str]:
        """GET, or POST with these fields; follows no redirect. Status and the beginning of the page."""
        there = urlsplit(url)
        connection = self._connection(there.scheme, there.hostname or "", there.port)
        headers = {"Host": there.netloc, "User-Agent": CHECKS_LOGINS}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        body = None
        if fields is not None:
            body, headers["Content-Type"] = urlencode(fields), "application/x-www-form-urlencoded"
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", there.path or "/", body, headers)
            answer = connection.getresponse()
            for line in answer.headers.get_all("Set-Cookie") or ():
                name, _, value = line.partition(";")[0].partition("=")
                self.cookies[name.strip()] = value.strip()
            return answer.status, answer.read(_MOST_OUTPUT).decode("utf-8", "replace")

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        number = port or (443 if scheme == "https" else 80)
        connected = socket.create_connection((self.door.address, number), timeout=_REQUEST)
        connection = http.client.HTTPConnection(host, number, timeout=_REQUEST)
        if scheme == "https":
            context = ssl.create_default_context(cadata=self.door.ca or None)
            if not self.door.ca:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connected = context.wrap_socket(connected, server_hostname=host)
        connection.sock = connected
        return connection


def _sign_in(wanted: Attempt) -> str:
    browser, front = _Browser(wanted.door), wanted.door.url
    status, page = browser.ask(front, {"username": wanted.username, "password": wanted.notebook or ""})
    until = time.monotonic() + _SERVER
    while status == 200 and "waiting" in (fields := _fields(page)):
        if time.monotonic() > until:
            return f"the server does not start within {_SERVER:.0f} s"
        time.sleep(0.5)
        status, page = browser.ask(front, fields)
    target, fields = _TARGET.search(page), _fields(page)
    if status != 200 or target is None or "ticket" not in fields:
        return f"the front page says ({status}): {_title(page)}"
    arrived, page = browser.ask(html.unescape(target[1]), fields)
    if arrived != 303:
        return f"the student's server refuses the way in from the front page ({arrived}): {_title(page)}"
    base = html.unescape(target[1]).removesuffix("nblauncher/ticket")
    inside, page = browser.ask(f"{base}api/status")
    browser.ask(f"{base}logout")
    return "" if inside == 200 else f"signed in, but the student's server refuses the first page ({inside})"


def _fields(page: str) -> dict[str, str]:
    return {name: html.unescape(value) for name, value in _HIDDEN.findall(page)}


def _title(page: str) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", page, re.DOTALL) or re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    return (
        html.unescape(re.sub(r"<[^>]+>|\s+", " ", found[1])).strip()[:_MOST_SHOWN]
        if found
        else "nothing that is understood"
    )
