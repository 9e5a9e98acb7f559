"""web.frontend: nginx. Writes the config of the class's own nginx and starts it with its own key."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from nblauncher.accounts import SYSTEM_ACCOUNTS
from nblauncher.commands import wording
from nblauncher.commands.running import readiness
from nblauncher.errors import HostError, RefusedError
from nblauncher.frontends.nginx_config import AWAY, CLOSED, Proxied, Student, render
from nblauncher.model import Account, TlsFiles
from nblauncher.planning.host import Host
from nblauncher.preflight.finding import PATH
from nblauncher.preflight.ports import bind_trouble
from nblauncher.supervisor.client import Client, FrontPageReport
from nblauncher.supervisor.nginx import ProxySpec, ProxyWanted
from nblauncher.supervisor.ports import WILDCARDS
from nblauncher.supervisor.spawners import SLURM
from nblauncher.system import interruption, processes

log = logging.getLogger(__name__)

LEAST = (1, 18)
"""The first version that knows all of our directives."""

_AUTHORITIES = ".ca.pem"
_HTTP2_DIRECTIVE = (1, 25, 1)


def require(host: Host) -> None:
    """RefusedError or InputError when the config wants nginx and the class cannot run behind it."""
    if host.frontend.is_proxy:
        _program()
        host.frontend.require(host.ledger.members(host.settings.course))


def version() -> tuple[str, tuple[int, ...]]:
    """The program and its version. RefusedError when there is none, or one that is too old."""
    program = shutil.which("nginx", path=PATH)
    hint = "Install it (apt-get install nginx-light, dnf install nginx), or set `web.frontend: direct`."
    if program is None:
        raise RefusedError("web.frontend is nginx, and this host has no nginx", hint)
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", _words_of(program))
    numbers = tuple(map(int, found.groups())) if found else (0,)
    if numbers < LEAST:
        raise RefusedError(f"{program} is version {'.'.join(map(str, numbers))}, and 1.18 is the least", hint)
    return program, numbers


def _words_of(program: str) -> str:
    """nginx prints its version on stderr."""
    try:
        done = subprocess.run(
            [program, "-v"], capture_output=True, text=True, env=processes.ENVIRONMENT, timeout=15, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"{program} cannot be run: {error}", "Install nginx again.") from error
    return done.stderr


def _program() -> str:
    return version()[0]


def proxied(host: Host, held: Collection[int] | None = None) -> Proxied:
    """The class as nginx must know it. `held`: the ports that are bound; a student with a port held elsewhere is
    left out, because nginx starts with all its ports or not at all.
    """
    claims = host.ledger.claims()
    students = tuple(
        Student(
            member.username,
            member.port,
            host.paths.http / f"{claims[member.username].account.uid}.sock",
            host.frontend.inner_name(member.username),
        )
        for member in host.ledger.members(host.settings.course).values()
        if member.username in claims and (held is None or host.settings.web.routing != "ports" or member.port in held)
    )
    return Proxied(
        routing=host.settings.web.routing,
        front_port=host.settings.web.port,
        front_socket=host.paths.front_socket,
        addresses=tuple(_addresses(host)),
        hosts=host.frontend.names,
        has_tls=host.settings.tls.mode != "off",
        http2_is_directive=version()[1] >= _HTTP2_DIRECTIVE,
        students=students,
        authorities=_authorities(host),
    )


def lacks_an_authority(host: Host) -> bool:
    """Whether the nginx that runs would refuse servers with new certificates, because the class CA was renewed."""
    if not (wanted := _authorities(host)):
        return False
    return any(file.read_bytes() != wanted for file in host.paths.proxy.glob(f"nginx-*{_AUTHORITIES}"))


def _authorities(host: Host) -> bytes:
    """Who may vouch for students' servers; nobody needs to on this host. FileNotFoundError without a class CA."""
    if host.settings.notebook.spawner != SLURM:
        return b""
    from nblauncher.frontends import class_ca

    return class_ca.known_authorities(host.paths.tls)


def wanted(host: Host) -> ProxyWanted | None:
    """The ports that nginx inherits; None without nginx."""
    if not host.frontend.is_proxy:
        return None
    members = host.ledger.members(host.settings.course)
    ports = host.frontend.public_ports({name: member.port for name, member in members.items()})
    return ProxyWanted(pwd.getpwnam(SYSTEM_ACCOUNTS[0]).pw_gid, ports)


def digest(host: Host, held: Collection[int] | None = None) -> bytes:
    """Of nginx's config as of now; empty without nginx."""
    return hashlib.sha256(repr(proxied(host, held)).encode()).digest() if host.frontend.is_proxy else b""


def start(
    host: Host, supervisor: Client, account: Account, certificate: TlsFiles | None, restart: tuple[str, ...]
) -> str:
    """Start a new nginx with the present config; the old one exits with its last connection. The config's path."""
    from nblauncher.auth import visitor_pages

    folder = host.paths.proxy
    _make_folders(folder, account)
    name = next(name for name in map("nginx-{}".format, itertools.count(1)) if not (folder / f"{name}.conf").exists())
    # "/" leads to the front page from everywhere and names no student.
    for page, template in ((AWAY, "stopped.html"), (CLOSED, "closed.html")):
        content = visitor_pages.render(template, wording.appearance(host.settings), front_page="/", looks_again=5)
        _write(folder / page, content.encode(), account)
    if certificate is not None:
        _write(folder / f"{name}.pem", certificate.certificate, account)
        _write(folder / f"{name}.key", certificate.key, account)
    config, about = folder / f"{name}.conf", proxied(host, supervisor.front_page().proxy_ports)
    if about.authorities:
        _write(folder / f"{name}{_AUTHORITIES}", about.authorities, account)
    _write(config, render(about, folder, name).encode(), account)
    supervisor.start_proxy(ProxySpec(_program(), account, str(config), restart))
    return str(config)


def tidy(host: Host, config: str) -> None:
    """Delete the configs and keys of earlier instances, which have read them."""
    for old in host.paths.proxy.glob("nginx-*"):
        if not old.name.startswith(f"{Path(config).stem}."):
            old.unlink()


def wait(host: Host, supervisor: Client, config: str, deadline: float) -> FrontPageReport:
    """Wait until the nginx with this config serves the front page. HostError if not; the old one keeps serving."""
    until = time.monotonic() + deadline
    port, has_tls = host.settings.web.port, host.settings.tls.mode != "off"
    while time.monotonic() < until:
        report = supervisor.front_page()
        if report.proxy_config == config:
            if readiness.page_answers(port, has_tls=has_tls, addresses=host.settings.web.bind):
                return report
        elif not report.proxy_is_starting:
            break
        interruption.sleep(0.05)
    last = f": {report.last_lines[-1]}" if report.last_lines else ""
    raise HostError(f"nginx did not start with {config}{last}", f"See {host.paths.logs}/_proxy.log.")


def _addresses(host: Host) -> Iterator[str]:
    if host.settings.web.bind:
        yield from host.settings.web.bind
        return
    for address in WILDCARDS:
        trouble = bind_trouble(socket.AF_INET6, address, 0) if ":" in address else 0
        if trouble not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            yield address


def _make_folders(folder: Path, account: Account) -> None:
    """nginx's folder belongs to root and is readable by nginx's group; nginx owns only the folder it writes to."""
    for path, uid, mode in ((folder, 0, 0o750), (folder / "tmp", account.uid, 0o700)):
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, uid, account.gid)
        path.chmod(mode)


def _write(file: Path, content: bytes, account: Account) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchown(descriptor, 0, account.gid)
        os.fchmod(descriptor, 0o640)
        stream.write(content)
