"""`tls: files`: the administrator's own certificate chain and key, checked before anything depends on them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from nblauncher.errors import InputError
from nblauncher.frontends.class_ca import read_regular, sorted_addresses, sorted_names
from nblauncher.model import TlsFiles


def load_files(
    certificate: Path,
    key: Path,
    names: Iterable[str] = (),
    addresses: Iterable[str] = (),
    *,
    now: datetime | None = None,
) -> TlsFiles:
    """The administrator's own certificate chain and key for `tls: files`. The caller must be able to read them.

    Raises InputError with every problem: unreadable, not PEM, key of another certificate, a passphrase, out of its
    dates, or one of `names` and `addresses` not covered.
    """
    problems: list[str] = []
    contents = []
    for path in (certificate, key):
        try:
            contents.append(read_regular(path))
        except OSError as error:
            problems.append(f"{path}: {os.strerror(error.errno) if error.errno else error}")
    if problems:
        raise InputError(problems, "Check tls.certificate and tls.key in the config.")
    files = TlsFiles(contents[0], contents[1])
    problems = _problems_of(files, certificate, key, names, addresses, now or datetime.now(timezone.utc))
    if problems:
        raise InputError(problems, "Check tls.certificate and tls.key in the config.")
    return files


def _problems_of(
    files: TlsFiles, certificate: Path, key: Path, names: Iterable[str], addresses: Iterable[str], now: datetime
) -> list[str]:
    problems = []
    parsed = _parse_certificate(files.certificate)
    if parsed is None:
        problems.append(f"{certificate}: this is not a PEM certificate")
    private = _parse_key(files.key)
    if isinstance(private, str):
        problems.append(f"{key}: {private}")
    if parsed is None:
        return problems
    if not isinstance(private, str) and private.public_key() != parsed.public_key():
        problems.append(f"{key}: this key does not belong to the certificate in {certificate}")
    if parsed.not_valid_after_utc <= now:
        problems.append(f"{certificate}: expired on {parsed.not_valid_after_utc:%Y-%m-%d}")
    if parsed.not_valid_before_utc > now:
        problems.append(f"{certificate}: valid only from {parsed.not_valid_before_utc:%Y-%m-%d}")
    missing = _not_covered(parsed, names, addresses)
    return problems + [f"{certificate}: does not cover {host}" for host in missing]


def _parse_certificate(content: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except ValueError:
        return None


def _parse_key(content: bytes) -> PrivateKeyTypes | str:
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:
        return "this key has a passphrase; servers start unattended and need one without"
    except (ValueError, UnsupportedAlgorithm):
        return "this is not a PEM private key"


def _not_covered(certificate: x509.Certificate, names: Iterable[str], addresses: Iterable[str]) -> list[str]:
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [*names, *addresses]
    covered = {name.lower() for name in listed.get_values_for_type(x509.DNSName)}
    covered_addresses = {str(address) for address in listed.get_values_for_type(x509.IPAddress)}
    missing = [
        name for name in sorted_names(names) if name not in covered and f"*.{name.partition('.')[2]}" not in covered
    ]
    return missing + [address for address in sorted_addresses(addresses) if address not in covered_addresses]
