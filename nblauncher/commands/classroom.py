"""What the processes of a class are told: who may sign in, and each server's config and certificate.

It holds hashes and keys. All of it stays in this process's memory until it goes into sealed memory files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from nblauncher import classfiles, hashes, survey, tls, tls_files
from nblauncher.commands import proxy
from nblauncher.errors import HostError, InputError
from nblauncher.frontends import is_address
from nblauncher.host import Host
from nblauncher.model import Account, TlsFiles
from nblauncher.server_config import ServerConfig
from nblauncher.supervisor.client import ServerOrder
from nblauncher.supervisor.specs import ServerSpec
from nblauncher.web.inputs import ClassPage, Enrolled, render_config

Issue = Callable[[str], TlsFiles | None]
"""username → certificate and key of the student's server; "" is the front page. None where TLS is off."""


def enrolled(host: Host) -> dict[str, Enrolled]:
    """Everybody who may sign in at the front page."""
    passwords = hashes.read(host.paths.hashes)
    claims = host.ledger.claims()
    return {
        name: Enrolled(claims[name].account.uid, member.port, passwords[name])
        for name, member in host.ledger.members(host.settings.course).items()
        if name in passwords and name in claims
    }


def server_order(host: Host, username: str, port: int, hashed_password: str | None, issue: Issue) -> ServerOrder:
    """A student's server. HostError when the account must not be served, or the password is gone."""
    account = survey.student_account(host, username)
    if hashed_password is None:
        raise HostError("the hash of the notebook password is gone", "restore the course's state from a backup")
    notebook = host.settings.notebook
    config = ServerConfig(
        username=username,
        hashed_password=hashed_password,
        port=port,
        front_port=host.settings.web.port,
        tickets_socket=str(host.paths.tickets_socket),
        home=str(account.home),
        target=host.settings.material.target,
        settings_folder=str(classfiles.settings_folder(host.paths.run)),
        interface=notebook.interface,
        idle_stop=60.0 * notebook.idle_stop,
        is_behind_proxy=host.frontend.is_proxy,
        own_label=f"{username}." if host.frontend.is_proxy and host.settings.web.routing == "hosts" else "",
    )
    spec = _spec(host, account, port)
    if host.frontend.is_proxy:
        return ServerOrder(spec, config.to_bytes(), None, str(host.paths.http / f"{account.uid}.sock"))
    return ServerOrder(spec, config.to_bytes(), issue(username))


def outdated(host: Host, running: Collection[str]) -> list[str]:
    """Those of the running servers that were started with another config, password or host than of now. Looks only."""
    told = _read_told(host)
    ports = host.ledger.members(host.settings.course)
    passwords = hashes.read(host.paths.hashes)
    found = []
    for name in sorted(told.keys() & ports.keys() & frozenset(running)):
        try:
            order = server_order(host, name, ports[name].port, passwords.get(name), lambda _username: None)
        except HostError:
            continue
        if _order_digest(host, order) != told[name]:
            found.append(name)
    return found


def remember_told(host: Host, orders: Iterable[ServerOrder]) -> None:
    """What these servers are started with, for `outdated`. Gone with the class's runtime folder."""
    told = _read_told(host) | {order.spec.username: _order_digest(host, order) for order in orders}
    hashes.write_private(_told_file(host), json.dumps(told).encode("ascii"))


def issuer(host: Host) -> Issue:
    """Makes the class CA when the class has none that fits. HostError when the state folder cannot be written."""
    mode = host.settings.tls.mode
    if mode == "off":
        return lambda _username: None
    if mode == "files":
        files = own_files(host)
        return lambda _username: files
    names, addresses = host.frontend.names, host.frontend.addresses

    def issue(username: str) -> TlsFiles:
        folder, name = _leaf(host, username)
        try:
            return tls.ensure_leaf(authority, folder, name, host.frontend.leaf_names, addresses)
        except OSError as error:
            raise _unwritable(error) from error

    try:
        authority = tls.ensure_class_ca(host.paths.tls, names, addresses, host.settings.course)
    except OSError as error:
        raise _unwritable(error) from error
    return issue


def own_files(host: Host) -> TlsFiles:
    """The administrator's certificate and key (tls.mode files). InputError when they cannot serve this class."""
    settings = host.settings.tls
    if settings.certificate is None or settings.key is None:
        raise InputError("tls.mode is files, and tls.certificate or tls.key is missing")
    members = host.ledger.members(host.settings.course)
    hosts = host.frontend.certified({name: member.port for name, member in members.items()})
    names = dict.fromkeys((*host.settings.web.names, *(hosts if host.frontend.is_proxy else ())))
    return tls_files.load_files(settings.certificate, settings.key, [one for one in names if not is_address(one)])


def front_page_inputs(host: Host, certificate: TlsFiles | None) -> bytes:
    """The front page's config, with what the class CA in the state folder is by now; looks only."""
    page = ClassPage(
        course=host.settings.course,
        interface=host.settings.notebook.interface,
        front_port=host.settings.web.port,
        hosts=frozenset(host.frontend.hosts),
        has_tls=certificate is not None,
        ca_pem=None,
        ca_fingerprint=None,
        students=enrolled(host),
        routing=host.settings.web.routing if host.frontend.is_proxy else "",
        host=host.frontend.host,
    )
    if certificate is not None and host.settings.tls.mode == "class-ca":
        authority = tls.read_regular(host.paths.tls / "ca.pem")
        page = replace(page, ca_pem=authority, ca_fingerprint=tls.fingerprint(authority))
    return render_config(page)


def expected_digest(host: Host) -> str | None:
    """`digest` of what the front page would be told today; None when it must be made first. Looks only."""
    mode = host.settings.tls.mode
    certificate = None
    if mode != "off":
        certificate = own_files(host) if mode == "files" else tls.read_leaf(*_leaf(host, ""))
        if certificate is None:
            return None
    try:
        return digest(front_page_inputs(host, certificate), certificate, proxy.digest(host))
    except FileNotFoundError:
        return None


def digest(config: bytes, certificate: TlsFiles | None, proxy: bytes) -> str:
    """Of everything that a front page is told. It gives nothing away: generated passwords cannot be guessed."""
    return hashlib.sha256(config + (certificate.certificate if certificate else b"") + proxy).hexdigest()


def _order_digest(host: Host, order: ServerOrder) -> str:
    """Without the class CA's leaf, which is issued when a server starts: its names and addresses stand for it."""
    own = own_files(host).certificate if host.settings.tls.mode == "files" else b""
    rest = [order.spec.to_json(), host.settings.tls.mode, sorted(host.frontend.hosts)]
    return hashlib.sha256(order.config + own + json.dumps(rest).encode("ascii")).hexdigest()


def _read_told(host: Host) -> dict[str, str]:
    return hashes.read(_told_file(host))


def _told_file(host: Host) -> Path:
    return host.paths.run / "told.json"


def _leaf(host: Host, username: str) -> tuple[Path, str]:
    return (host.paths.tls / "servers", username) if username else (host.paths.tls / "front", "front")


def _spec(host: Host, account: Account, port: int) -> ServerSpec:
    return ServerSpec(
        username=account.username,
        uid=account.uid,
        gid=account.gid,
        home=str(account.home),
        port=port,
        shell=account.shell or host.settings.accounts.shell,
        environment=dict(host.settings.notebook.environment),
        spawner=host.settings.notebook.spawner,
        limits=host.settings.limits,
        is_isolated=host.settings.isolation,
    )


def _unwritable(error: OSError) -> HostError:
    return HostError(f"the class's certificates cannot be written: {error.strerror}", "Free some space.")
