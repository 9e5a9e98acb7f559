"""Names under which students reach the class, the pages that they see, and the administrator's certificate."""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from cryptography import x509

from nblauncher.auth import texts
from nblauncher.config.settings import Settings, TlsSettings
from nblauncher.errors import InputError, NblauncherError
from nblauncher.frontends import FrontEnd
from nblauncher.frontends.admin_certificate import load_files
from nblauncher.model import LANGUAGES, Account
from nblauncher.preflight.finding import Finding, ok, problem, warning
from nblauncher.printable import printable
from nblauncher.system import tcp_diag, workers

_SOON = timedelta(days=30)


def names(wanted: Collection[str], frontend: FrontEnd, own: Collection[str]) -> Iterator[Finding]:
    """Whether each of web.names leads to this host. `own` are its addresses. Asks the resolver."""
    if not wanted:
        yield _without_names(frontend)
    for name in wanted:
        resolved = {name} if _is_address(name) else addresses_of(name)
        if not resolved:
            yield problem("names", f"{name} is not known to the name service", "Correct web.names, or add the name.")
        elif not resolved & set(own):
            yield warning(
                "names",
                f"{name} leads to {', '.join(sorted(resolved))}, which is not an address of this host",
                "That is right behind an address translation that forwards the ports unchanged; otherwise correct it.",
            )
        else:
            yield ok("names", f"{name} leads here")


def pages(settings: Settings) -> Iterator[Finding]:
    """Whether the teacher's texts are complete, and on whose clock students see deadlines."""
    if settings.web.texts is not None:
        yield from _texts(printable(settings.web.texts.name), settings.web.language, settings.texts)
    now = datetime.now(timezone.utc).astimezone()
    if settings.deadlines and not settings.web.time_zone and now.tzname() == "UTC":
        yield warning(
            "pages",
            "this host's clock is UTC, so students see deadlines in UTC",
            "Set web.time_zone to the class's, such as Europe/Berlin, if that is not its own clock.",
        )


def _texts(name: str, language: str, given: Mapping[str, str]) -> Iterator[Finding]:
    lacking, odd = texts.missing(given), texts.objections(given)
    if language.partition("-")[0].lower() not in LANGUAGES and lacking:
        yield warning(
            "pages",
            f"{name} lacks {_counted(lacking)}, which students see in English: {', '.join(lacking)}",
            "Add them, or leave them English.",
        )
    for words in odd:
        yield warning("pages", f"{name}: {printable(words)}", "Correct the text, or leave it out.")
    if not lacking and not odd:
        yield ok("pages", f"{name} has all {len(given)} texts")


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} text{'' if len(names) == 1 else 's'}"


def _without_names(frontend: FrontEnd) -> Finding:
    host = host_of(frontend)
    if host == "localhost":
        return warning("names", "this host has no address that others can reach", "Connect it, or set web.names.")
    if _is_address(host):
        return warning(
            "names",
            f"this host's name leads nowhere, so students type {frontend.front_page}",
            "Set web.names to a name that they can type.",
        )
    return ok("names", f"students type {frontend.front_page}")


def host_of(frontend: FrontEnd) -> str:
    """The host in every address."""
    return urlsplit(frontend.front_page).hostname or ""


def addresses_of(name: str) -> set[str]:
    try:
        return {str(answer[4][0]) for answer in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def own_addresses() -> set[str]:
    """Every address of this host, loopback included."""
    return {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}


def crowding() -> Finding:
    """Whether root can close silent connections before they fill nginx: tried on one of our own."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            with socket.create_connection(address), listening.accept()[0]:
                found, _owners = tcp_diag.connections({address[1]})
                tcp_diag.end(found)
    except OSError as error:
        return warning(
            "front end",
            f"the kernel does not let us close connections ({error}), so one client can fill nginx with silent ones",
            "It takes a kernel with CONFIG_INET_DIAG_DESTROY, as distributions build it, and CAP_NET_ADMIN.",
        )
    return ok("front end", "silent connections of one client are limited")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def certificate(tls: TlsSettings, hosts: Collection[str], *, now: datetime | None = None) -> Iterator[Finding]:
    """The files of `tls: files`: readable, a matching pair, within their dates, and valid for `hosts`.

    As root they are read in a worker that is the key's owner, because the key may be in a home.
    """
    now = now or datetime.now(timezone.utc)
    if tls.mode == "off":
        yield warning("certificate", "tls is off: passwords can be read on the network", "Use tls.mode: class-ca.")
    if tls.mode == "class-ca":
        yield ok("certificate", "signed by the class's own authority")
    if tls.mode != "files" or tls.certificate is None or tls.key is None:
        return
    try:
        reader = _owner_of(tls.key)
        arguments = (str(tls.certificate), str(tls.key), sorted(hosts))
        answer = workers.run_as(reader, judge_files, *arguments) if reader else judge_files(*arguments)
    except NblauncherError as error:
        for words in error.problem.splitlines():
            yield problem("certificate", words, "Correct tls.certificate and tls.key.")
        return
    expires = datetime.fromisoformat(str(answer["expires"]))
    if expires - now < _SOON:
        yield warning("certificate", f"it ends on {expires:%Y-%m-%d}", "Renew it before the course needs it.")
    else:
        yield ok("certificate", f"{printable(str(tls.certificate))} fits its key and is valid until {expires:%Y-%m-%d}")
    if tls.share_key_with_students:
        yield warning(
            "certificate",
            "every student can read the key of this certificate and pose as this host on the network",
            "Use tls.mode: class-ca unless that is acceptable.",
        )


def judge_files(certificate_file: str, key_file: str, hosts: Collection[str]) -> dict[str, Any]:
    """Runs as the key's owner. InputError with all problems, a line each; returns no key."""
    addresses = [host for host in hosts if _is_address(host)]
    host_names = [host for host in hosts if not _is_address(host)]
    files = load_files(Path(certificate_file), Path(key_file), host_names, addresses)
    parsed = x509.load_pem_x509_certificates(files.certificate)[0]
    return {"expires": parsed.not_valid_after_utc.isoformat()}


def _owner_of(file: Path) -> Account | None:
    """The account that root becomes to read it; None for root's own files, and when we are not root."""
    try:
        uid = file.stat().st_uid
        if os.geteuid() != 0 or uid == 0:
            return None
        entry = pwd.getpwuid(uid)
    except OSError as error:
        raise InputError(f"{printable(str(file))}: {os.strerror(error.errno or 0)}") from None
    except KeyError:
        raise InputError(f"{printable(str(file))} belongs to a uid without an account on this host") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
