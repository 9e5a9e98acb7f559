"""The throw-away class of `check --security` while it runs: what root, a student or a browser does in it."""

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

from nblauncher import processes
from nblauncher.cgroups import Group, Kind, choose
from nblauncher.children import Child, fork_exec
from nblauncher.course import CoursePaths
from nblauncher.errors import HostError
from nblauncher.host import Host
from nblauncher.model import Account
from nblauncher.namespaces import Namespaces
from nblauncher.sandbox import Sandbox

COURSE = "nbl-trial"
ATTACKER, VICTIM = "nbl-trial-a", "nbl-trial-b"
_LONGEST = 300.0
_MOST_SAID = 600


@dataclass(frozen=True, slots=True)
class Pair:
    """The throw-away class while it runs."""

    paths: CoursePaths
    port: int
    accounts: Mapping[str, Account]
    servers: Mapping[str, int]
    """pids"""
    passwords: Mapping[str, str]
    ports: Mapping[str, int]
    folder: Path
    """The teacher's."""


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
        said = " ".join(done.stderr.split())[-_MOST_SAID:]
        raise HostError(f"the throw-away class: {said or done.returncode}")
    return done.stdout


def sandbox_of(pair: Pair, username: str = ATTACKER) -> Sandbox:
    """What the student's server is in; the namespace only if root made it."""
    account = pair.accounts[username]
    held = Namespaces(pair.paths.students_run)
    held.adopt(account.uid, pair.servers[username])
    return Sandbox(choose(COURSE).of_student(account.uid), namespace=held.path(account.uid))


def run_in(pair: Pair, username: str, code: str) -> str:
    return run(pair.accounts[username], sandbox_of(pair, username), ("-I", "-c", code))


def run(account: Account, sandbox: Sandbox | None, arguments: tuple[str, ...]) -> str:
    """What a Python of the student's prints; `sandbox` None: as a login would run it."""
    held = sandbox or Sandbox(Group(Kind.NONE, Path()))
    environment = {"HOME": str(account.home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    handle, output = fork_exec(Child(account, (sys.executable, *arguments), environment, (), account.home, held))
    said, until = b"", time.monotonic() + 60
    try:
        while time.monotonic() < until:
            if select.select([output], [], [], 1)[0]:
                part = os.read(output, 65536)
                if not part:
                    break
                said += part
    finally:
        os.close(output)
        processes.send_signal(handle, 9)
        os.waitpid(handle.pid, 0)
    return said.decode("utf-8", "replace")


def request(
    host: Host,
    pair: Pair,
    whose: str,
    path: str,
    headers: Mapping[str, str],
    body: str | None = None,
    *,
    source: str = "",
) -> tuple[int, str]:
    """A request to the front page (whose: "") or to a student's server, through whatever front end there is; its
    status, and headers and body as one text. `source` is the address that it comes from.
    """
    routing = host.settings.web.routing if host.frontend.is_proxy else "ports"
    port = pair.ports[whose] if whose and routing == "ports" else pair.port
    name = f"{whose}.{host.frontend.host}" if whose and routing == "hosts" else host.frontend.host
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
