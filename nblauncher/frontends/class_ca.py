"""The class's own certificate authority and the certificates of its servers.

Students may install the class CA in their browsers. Therefore it can vouch for the class's names and addresses only
(critical nameConstraints, RFC 5280 section 4.2.1.10; a name includes what is below it), for servers only, and signs no
further CA. It lives 397 days, a school year with margin, and is renewed when less than 30 are left or when the names
change. `ca.key` holds the key and, behind it, its certificate: one rename changes both;
`ca.pem` is derived from it.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nblauncher.errors import InputError
from nblauncher.model import TlsFiles
from nblauncher.system import root_files

LIFETIME = timedelta(days=397)
"""Browsers refuse server certificates that live longer (CA/Browser Forum, Apple, Chromium)."""

RENEW_BEFORE = timedelta(days=30)

_CLOCK_SKEW = timedelta(hours=1)
_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class ClassCA:
    """A class CA, ready to sign. `certificate` is PEM, as students install it."""

    certificate: bytes
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    valid_until: datetime
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    is_new: bool = False
    """It was made just now: students who installed an earlier one must install this one."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)


def ensure_class_ca(
    folder: Path,
    names: Iterable[str],
    addresses: Iterable[str],
    course: str,
    valid_until: datetime | None = None,
    *,
    now: datetime | None = None,
) -> ClassCA:
    """The class CA in `folder` (made 0700), or a new one when there is none that fits. Runs as root.

    A CA that no longer fits (other names, near its end, damaged) is kept aside as `ca-FINGERPRINT.pem`, without its
    key, so that it can never sign again. InputError for a name that no certificate can hold, OSError for the disk.
    """
    now = now or datetime.now(timezone.utc)
    wanted_names, wanted_addresses = sorted_names(names), sorted_addresses(addresses)
    if not wanted_names and not wanted_addresses:
        raise InputError("the class CA needs at least one name or address")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    found = _read_ca(folder / "ca.key")
    if found is None or not _still_fits(found, wanted_names, wanted_addresses, now):
        _keep_aside(folder)
        found = _make_ca(wanted_names, wanted_addresses, course, valid_until or now + LIFETIME, now)
        root_files.replace(folder / "ca.key", _private_pem(found.key) + found.certificate, durable=True)
    if _read(folder / "ca.pem") != found.certificate:
        root_files.replace(folder / "ca.pem", found.certificate, durable=True)
    return found


def current_class_ca(
    folder: Path, names: Iterable[str], addresses: Iterable[str], *, now: datetime | None = None
) -> ClassCA | None:
    """The class CA that `ensure_class_ca` would return, if it would not make one. Changes nothing."""
    found = _read_ca(folder / "ca.key")
    wanted = sorted_names(names), sorted_addresses(addresses)
    if found is None or not _still_fits(found, *wanted, now or datetime.now(timezone.utc)):
        return None
    return found


def known_authorities(folder: Path) -> bytes:
    """The certificates of the class CA in `folder` and of those that it replaced: servers run on with leaves of theirs.
    None of the old ones can sign any more. FileNotFoundError when there is no class CA.
    """
    return b"".join(map(read_regular, (folder / "ca.pem", *sorted(folder.glob("ca-*.pem")))))


def issue_leaf(ca: ClassCA, names: Iterable[str], addresses: Iterable[str], *, now: datetime | None = None) -> TlsFiles:
    """A new key and a certificate for exactly these names and addresses, within the CA's own validity. 0.2 ms."""
    now = now or datetime.now(timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    ca_certificate = x509.load_pem_x509_certificate(ca.certificate)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Notebook class server")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca_certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - _CLOCK_SKEW, ca_certificate.not_valid_before_utc))
        .not_valid_after(min(now - _CLOCK_SKEW + LIFETIME, ca.valid_until))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_general_names(names, addresses)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return TlsFiles(certificate.public_bytes(serialization.Encoding.PEM), _private_pem(key))


def ensure_leaf(
    ca: ClassCA,
    folder: Path,
    name: str,
    names: Iterable[str],
    addresses: Iterable[str],
    *,
    now: datetime | None = None,
) -> TlsFiles:
    """The server certificate `folder/NAME.pem` with `NAME.key` (0600), reissued when it does not fit. Runs as root.

    Not fsynced, unlike the CA: what a power cut damages is issued again.
    """
    now = now or datetime.now(timezone.utc)
    names, addresses = sorted_names(names, has_wildcards=True), sorted_addresses(addresses)
    found = read_leaf(folder, name)
    if found is not None and _leaf_fits(found, ca, names, addresses, now):
        return found
    made = issue_leaf(ca, names, addresses, now=now)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    root_files.replace(folder / f"{name}.key", made.key)
    root_files.replace(folder / f"{name}.pem", made.certificate)
    return made


def read_leaf(folder: Path, name: str) -> TlsFiles | None:
    """What `ensure_leaf` stored, or None when it is not there."""
    certificate, key = _read(folder / f"{name}.pem"), _read(folder / f"{name}.key")
    return None if certificate is None or key is None else TlsFiles(certificate, key)


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of the (first) certificate as browsers show it: `AB:CD:…`, 32 bytes."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex(":").upper()


def _make_ca(
    names: tuple[str, ...], addresses: tuple[str, ...], course: str, valid_until: datetime, now: datetime
) -> ClassCA:
    key = ec.generate_private_key(ec.SECP256R1())
    # The random part keeps two CAs of one course apart: browsers look issuers up by name.
    title = f"nblauncher class {course} {secrets.token_hex(4)}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    valid_until = valid_until.astimezone(timezone.utc).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(valid_until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_constraints(names, addresses), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return ClassCA(pem, names, addresses, valid_until, key, is_new=True)


def _constraints(names: tuple[str, ...], addresses: tuple[str, ...]) -> x509.NameConstraints:
    """Permit what is listed; a kind of name without any permitted one would otherwise be unconstrained."""
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    permitted += [x509.IPAddress(ipaddress.ip_network(address)) for address in addresses]
    excluded: list[x509.GeneralName] = [] if names else [x509.DNSName("")]
    if not addresses:
        excluded += [x509.IPAddress(ipaddress.ip_network(everything)) for everything in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints(permitted, excluded or None)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Iterable[str], addresses: Iterable[str]) -> list[x509.GeneralName]:
    listed: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted_names(names, has_wildcards=True)]
    return listed + [x509.IPAddress(ipaddress.ip_address(address)) for address in sorted_addresses(addresses)]


def sorted_names(names: Iterable[str], *, has_wildcards: bool = False) -> tuple[str, ...]:
    """In one spelling; a wildcard is the first label as a whole (RFC 6125, section 6.4.3). InputError."""
    wanted = sorted({name.lower().removesuffix(".") for name in names})
    plain = {name: name.removeprefix("*.") if has_wildcards else name for name in wanted}
    bad = [name for name, rest in plain.items() if not rest or not rest.isascii() or rest.startswith(("*", "."))]
    if bad:
        raise InputError([f"web.names: {name!r} cannot stand in the class's certificate" for name in bad])
    return tuple(wanted)


def sorted_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    parsed = {ipaddress.ip_address(address) for address in addresses}
    return tuple(str(address) for address in sorted(parsed, key=lambda address: (address.version, address.packed)))


def _read_ca(path: Path) -> ClassCA | None:
    """The stored CA, or None when there is none or it is damaged."""
    content = _read(path)
    if content is None:
        return None
    try:
        key = serialization.load_pem_private_key(content, None)
        certificate = x509.load_pem_x509_certificate(content)
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    permitted = constraints.permitted_subtrees or ()
    return ClassCA(
        certificate.public_bytes(serialization.Encoding.PEM),
        sorted_names(name.value for name in permitted if isinstance(name, x509.DNSName)),
        sorted_addresses(str(name.value).split("/")[0] for name in permitted if isinstance(name, x509.IPAddress)),
        certificate.not_valid_after_utc,
        key,
    )


def _still_fits(ca: ClassCA, names: tuple[str, ...], addresses: tuple[str, ...], now: datetime) -> bool:
    return (ca.names, ca.addresses) == (names, addresses) and now + RENEW_BEFORE < ca.valid_until


def _keep_aside(folder: Path) -> None:
    """Keep the certificate that students may have installed, so that it can be told apart and removed from browsers."""
    certificate = _read(folder / "ca.pem")
    if certificate is None:
        return
    try:
        short = fingerprint(certificate).replace(":", "")[:16].lower()
    except ValueError:
        return
    root_files.replace(folder / f"ca-{short}.pem", certificate, durable=True)


def _leaf_fits(files: TlsFiles, ca: ClassCA, names: tuple[str, ...], addresses: tuple[str, ...], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate)
        key = serialization.load_pem_private_key(files.key, None)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate))
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    # InvalidSignature is not a ValueError; a certificate that does not verify is reissued.
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    is_fresh = certificate.not_valid_after_utc > min(now + RENEW_BEFORE, ca.valid_until - timedelta(seconds=1))
    is_same = list(listed) == _general_names(names, addresses)
    return is_fresh and is_same and key.public_key() == certificate.public_key()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None


def read_regular(path: Path) -> bytes:
    """The content of a regular file of at most 1 MiB; OSError for anything else."""
    # O_NONBLOCK: a FIFO where a file should be must not hold up a launch.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        details = os.fstat(descriptor)
        if not stat.S_ISREG(details.st_mode) or details.st_size > _MAX_FILE:
            raise OSError(f"{path} is not a regular file of at most {_MAX_FILE} bytes")
        return file.read(_MAX_FILE)
