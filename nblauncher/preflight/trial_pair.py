"""The running throw-away class of `check --security`: act in it as root, as a student or as a browser."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nblauncher.errors import HostError
from nblauncher.isolation.cgroups import Group, Kind, choose
from nblauncher.isolation.namespaces import Namespaces
from nblauncher.isolation.sandbox import Sandbox
from nblauncher.isolation.spawn import Child, fork_exec
from nblauncher.model import Account
from nblauncher.paths import CoursePaths
from nblauncher.planning.host import Host
from nblauncher.system import processes

COURSE = "nbl-trial"
ATTACKER, VICTIM = "nbl-trial-a", "nbl-trial-b"
_LONGEST = 300.0
_MOST_WORDS = 600


@dataclass(frozen=True, slots=True)
class Pair:
    """The running throw-away class."""

    paths: CoursePaths
    port: int
    accounts: Mapping[str, Account]
    servers: Mapping[str, int]
    """pids"""
    passwords: Mapping[str, str]
    ports: Mapping[str, int]
    folder: Path
    """The teacher's folder."""


def nblauncher(folder: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SUDO_", "NOTIFY_"))}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "nblauncher", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"`nblauncher {words[0]}` of the throw-away class took more than {_LONGEST:.0f} s") from error
    if done.returncode:
        complaint = " ".join(done.stderr.split())[-_MOST_WORDS:]
        raise HostError(f"the throw-away class: {complaint or done.returncode}")
    return done.stdout


def sandbox_of(pair: Pair, username: str = ATTACKER) -> Sandbox:
    """The sandbox of the student's server; the namespace only if root made it."""
    account = pair.accounts[username]
    held = Namespaces(pair.paths.students_run)
    held.adopt(account.uid, pair.servers[username])
    return Sandbox(choose(COURSE).of_student(account.uid), namespace=held.path(account.uid))


def run_in(pair: Pair, username: str, code: str) -> str:
    return run(pair.accounts[username], sandbox_of(pair, username), ("-I", "-c", code))


def run(account: Account, sandbox: Sandbox | None, arguments: tuple[str, ...]) -> str:
    """Run Python as the student and return its output; `sandbox` None: as in a login."""
    held = sandbox or Sandbox(Group(Kind.NONE, Path()))
    environment = {"HOME": str(account.home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    handle, output = fork_exec(Child(account, (sys.executable, *arguments), environment, (), account.home, held))
    printed, until = b"", time.monotonic() + 60
    try:
        while time.monotonic() < until:
            if select.select([output], [], [], 1)[0]:
                part = os.read(output, 65536)
                if not part:
                    break
                printed += part
    finally:
        os.close(output)
        processes.send_signal(handle, 9)
        os.waitpid(handle.pid, 0)
    return printed.decode("utf-8", "replace")


def request(
    host: Host,
    pair: Pair,
    server: str,
    path: str,
    headers: Mapping[str, str],
    body: str | None = None,
    *,
    source: str = "",
) -> tuple[int, str]:
    """Send a request to the front page (`server` is "") or to a student's server, through the class's front end.

    Returns the status, and headers and body as one text. `source` is the address that it comes from.
    """
    routing = host.frontend.routing or "ports"
    port = pair.ports[server] if server and routing == "ports" else pair.port
    name = f"{server}.{host.frontend.host}" if server and routing == "hosts" else host.frontend.host
    address = next(iter(host.settings.web.bind), "127.0.0.1")
    plain = socket.create_connection((address, port), timeout=20, source_address=(source, 0) if source else None)
    connection: http.client.HTTPConnection = http.client.HTTPConnection(name, port, timeout=20)
    connection.sock = plain
    if host.settings.tls.mode != "off":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection.sock = context.wrap_socket(plain, server_hostname=name)
    with contextlib.closing(connection):
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, {"Host": f"{name}:{port}", **headers})
        answer = connection.getresponse()
        return answer.status, f"{answer.headers}\n{answer.read(200_000).decode('utf-8', 'replace')}"
