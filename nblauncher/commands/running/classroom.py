"""The inputs of a class's processes: accounts for the front page, and each server's config and certificate.

They hold hashes and keys, so they stay in this process's memory until they go into sealed memory files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nblauncher.auth import hashes
from nblauncher.commands import accepted, wording
from nblauncher.commands.running import nginx
from nblauncher.errors import HostError, InputError
from nblauncher.exchange.send import profile
from nblauncher.frontends import is_address
from nblauncher.ledger import lockouts
from nblauncher.model import Account, TlsFiles
from nblauncher.planning import survey
from nblauncher.planning.host import Host
from nblauncher.preflight import kernels
from nblauncher.server import class_files
from nblauncher.server.config import ServerConfig
from nblauncher.supervisor.client import ServerOrder
from nblauncher.supervisor.spawners import SLURM
from nblauncher.supervisor.specs import ServerSpec
from nblauncher.system import root_files
from nblauncher.web.inputs import ClassPage, Enrolled, parse_config, render_config

Issue = Callable[[str], TlsFiles | None]
"""username → certificate and key of the student's server; "" is the front page. None where TLS is off."""


def enrolled(host: Host) -> dict[str, Enrolled]:
    """The students whom the front page knows."""
    passwords, locked = hashes.read(host.paths.hashes), lockouts.read(host.paths.lockouts)
    claims = host.ledger.claims()
    return {
        name: Enrolled(claims[name].account.uid, member.port, passwords[name], name in locked)
        for name, member in host.ledger.members(host.settings.course).items()
        if name in passwords and name in claims
    }


def server_order(host: Host, username: str, port: int, hashed_password: str | None, issue: Issue) -> ServerOrder:
    """The order for a student's server. HostError when the account must not be served, or its hash is lost."""
    account = survey.student_account(host, username)
    if hashed_password is None:
        raise HostError("the hash of the notebook password is gone", "Restore the course's state from a backup.")
    notebook = host.settings.notebook
    config = ServerConfig(
        username=username,
        hashed_password=hashed_password,
        port=port,
        front_port=host.settings.web.port,
        tickets_socket=str(host.paths.tickets_socket),
        home=str(account.home),
        target=host.settings.material.target,
        settings_folder=str(class_files.settings_folder(host.paths.run)),
        interface=notebook.interface,
        idle_stop=60.0 * notebook.idle_stop,
        is_behind_proxy=host.frontend.is_proxy,
        own_label=host.frontend.own_label(username),
        appearance=str(host.paths.appearance),
        name=accepted.name_of(host, username),
    )
    spec = _spec(host, account, port)
    if host.frontend.is_proxy:
        tls = issue(username) if _is_on_a_node(host) else None
        return ServerOrder(spec, config.to_bytes(), tls, str(host.paths.http / f"{account.uid}.sock"))
    return ServerOrder(spec, config.to_bytes(), issue(username))


def outdated(host: Host, running: Collection[str]) -> list[str]:
    """Running servers that were started with a different config, password or host name. Changes nothing."""
    started = _read_started(host)
    ports = host.ledger.members(host.settings.course)
    passwords = hashes.read(host.paths.hashes)
    found = []
    for name in sorted(started.keys() & ports.keys() & frozenset(running)):
        try:
            order = server_order(host, name, ports[name].port, passwords.get(name), lambda _username: None)
        except HostError:
            continue
        if _order_digest(host, order) != started[name]:
            found.append(name)
    return found


def record_started(host: Host, orders: Iterable[ServerOrder]) -> None:
    """Record what these servers were started with, for `outdated`. Deleted with the class's runtime folder."""
    started = _read_started(host)
    for order in orders:
        started |= {order.spec.username: _order_digest(host, order), _rest(order): _digest_of_rest(host, order)}
    root_files.replace(_started_file(host), json.dumps(started), durable=True)


def record_renewed(host: Host, orders: Iterable[ServerOrder]) -> None:
    """Record that these running servers have the present password; with an older config they stay outdated."""
    started = _read_started(host)
    for order in orders:
        if started.get(_rest(order)) == _digest_of_rest(host, order):
            started[order.spec.username] = _order_digest(host, order)
    root_files.replace(_started_file(host), json.dumps(started), durable=True)


def issuer(host: Host) -> Issue:
    """Makes a class CA if the class has none that fits. HostError when the state folder cannot be written."""
    from nblauncher.frontends import class_ca

    mode, has_inner = host.settings.tls.mode, host.frontend.is_proxy and _is_on_a_node(host)
    files = own_files(host) if mode == "files" else None
    if mode != "class-ca" and not has_inner:
        return lambda _username: files
    names, addresses = host.frontend.names, host.frontend.addresses

    def issue(username: str) -> TlsFiles | None:
        if mode != "class-ca" and not username:
            return files
        folder, name = _leaf(host, username)
        wanted = host.frontend.leaf_names, addresses
        if username and has_inner:
            wanted = (host.frontend.inner_name(username),), ()
        try:
            return class_ca.ensure_leaf(authority, folder, name, *wanted)
        except OSError as error:
            raise _unwritable(error) from error

    try:
        authority = class_ca.ensure_class_ca(host.paths.tls, names, addresses, host.settings.course)
    except OSError as error:
        raise _unwritable(error) from error
    return issue


def own_files(host: Host) -> TlsFiles:
    """The administrator's certificate and key (tls.mode files). InputError when they cannot serve this class."""
    from nblauncher.frontends import admin_certificate

    settings = host.settings.tls
    if settings.certificate is None or settings.key is None:
        raise InputError("tls.mode is files, and tls.certificate or tls.key is missing")
    members = host.ledger.members(host.settings.course)
    hosts = host.frontend.certified({name: member.port for name, member in members.items()})
    names = dict.fromkeys((*host.settings.web.names, *hosts))
    return admin_certificate.load_files(
        settings.certificate, settings.key, [name for name in names if not is_address(name)]
    )


def front_page_inputs(host: Host, certificate: TlsFiles | None) -> bytes:
    """The front page's config, with the present class CA. Changes nothing."""
    page = ClassPage(
        course=host.settings.course,
        interface=host.settings.notebook.interface,
        front_port=host.settings.web.port,
        hosts=frozenset(host.frontend.hosts),
        has_tls=certificate is not None,
        ca_pem=None,
        ca_fingerprint=None,
        students=enrolled(host),
        routing=host.frontend.routing,
        host=host.frontend.host,
        appearance=wording.appearance(host.settings),
        greeting=host.settings.web.greeting,
        contact=host.settings.web.contact,
        time_zone=host.settings.web.time_zone,
        has_sealed_tickets=_is_on_a_node(host),
    )
    if certificate is not None and host.settings.tls.mode == "class-ca":
        from nblauncher.frontends import class_ca

        authority = class_ca.read_regular(host.paths.tls / "ca.pem")
        page = replace(page, ca_pem=authority, ca_fingerprint=class_ca.fingerprint(authority))
    return render_config(page)


def without_students(config: bytes) -> bytes:
    """The config of a front page, of which they are the part that it takes over while it runs."""
    return render_config(replace(parse_config(config), students={}))


def expected_digest(host: Host) -> str | None:
    """`digest` of the front page's inputs as of now; None if they must be made first. Changes nothing."""
    from nblauncher.frontends import class_ca

    mode = host.settings.tls.mode
    certificate = None
    if mode != "off":
        certificate = own_files(host) if mode == "files" else class_ca.read_leaf(*_leaf(host, ""))
        if certificate is None:
            return None
    try:
        return digest(front_page_inputs(host, certificate), certificate, nginx.digest(host))
    except FileNotFoundError:
        return None


def digest(config: bytes, certificate: TlsFiles | None, proxy: bytes) -> str:
    """Of all inputs of a front page. It leaks nothing, because generated passwords cannot be guessed."""
    return hashlib.sha256(config + (certificate.certificate if certificate else b"") + proxy).hexdigest()


def _order_digest(host: Host, order: ServerOrder) -> str:
    """Includes names and addresses instead of the class CA's leaf, which is issued when a server starts. Without the
    student's name: a correction of it is no reason to restart a server.
    """
    config = replace(ServerConfig.parse(order.config), name="").to_bytes()
    own = own_files(host).certificate if host.settings.tls.mode == "files" else b""
    rest = [order.spec.to_json(), host.settings.tls.mode, sorted(host.frontend.hosts)]
    if _is_on_a_node(host):
        rest.append(asdict(host.settings.slurm))
    return hashlib.sha256(config + own + json.dumps(rest).encode("ascii")).hexdigest()


def _rest(order: ServerOrder) -> str:
    """The key of the digest without the password, which is no username."""
    return f"{order.spec.username}/rest"


def _digest_of_rest(host: Host, order: ServerOrder) -> str:
    config = replace(ServerConfig.parse(order.config), hashed_password="")
    return _order_digest(host, replace(order, config=config.to_bytes()))


def _read_started(host: Host) -> dict[str, str]:
    return hashes.read(_started_file(host))


def _started_file(host: Host) -> Path:
    return host.paths.run / "told.json"


def _leaf(host: Host, username: str) -> tuple[Path, str]:
    if not username:
        return host.paths.tls / "front", "front"
    return host.paths.server_certificate(username).parent, username


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
        is_isolated=host.settings.isolation and not _is_on_a_node(host),
        slurm=_of_the_cluster(host) if _is_on_a_node(host) else {},
    )


def _is_on_a_node(host: Host) -> bool:
    """Whether students' servers are jobs of a cluster."""
    return host.settings.notebook.spawner == SLURM


def _of_the_cluster(host: Host) -> dict[str, Any]:
    """What a server on a node must be given of the class: it does not see this host's files."""
    python, spec = kernels.python_of(host.settings), None
    if host.settings.profile:
        spec = profile.kernelspec(python, host.settings.profile)
    return {
        "settings": asdict(host.settings.slurm),
        "kernel": {"spec": spec, "python": "" if python == sys.executable else python},
        "appearance": asdict(wording.appearance(host.settings)),
        "environment": dict(host.settings.notebook.environment),
    }


def _unwritable(error: OSError) -> HostError:
    return HostError(f"the class's certificates cannot be written: {error.strerror}", "Free some space.")
