"""The class CA vouches for the class only, survives crashes, and is renewed when it must be."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nblauncher.errors import InputError
from nblauncher.frontends import class_ca
from nblauncher.frontends.admin_certificate import load_files
from nblauncher.frontends.nginx import NginxFrontEnd
from nblauncher.model import TlsFiles

NAMES = ("class.example", "localhost")
ADDRESSES = ("127.0.0.1", "::1", "192.0.2.7")
NOW = datetime.now(timezone.utc)


@pytest.fixture
def ca(tmp_path: Path) -> class_ca.ClassCA:
    return class_ca.ensure_class_ca(tmp_path / "tls", NAMES, ADDRESSES, "physics101", now=NOW)


def handshake(ca: class_ca.ClassCA, leaf: TlsFiles, host: str, tmp_path: Path) -> None:
    """A whole TLS handshake in memory, the client trusting nothing but the class CA."""
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate + leaf.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "leaf.pem")
    client = ssl.create_default_context(cadata=ca.certificate.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def leaf_for(ca: class_ca.ClassCA, host: str) -> TlsFiles:
    return class_ca.issue_leaf(ca, () if tls_is_address(host) else (host,), (host,) if tls_is_address(host) else ())


def tls_is_address(host: str) -> bool:
    return host[0].isdigit() or ":" in host


@pytest.mark.parametrize("host", NAMES + ADDRESSES)
def test_a_leaf_is_accepted_under_every_name_and_address_of_the_class(ca, host, tmp_path):
    handshake(ca, class_ca.issue_leaf(ca, NAMES, ADDRESSES), host, tmp_path)


@pytest.mark.parametrize("host", ["bank.example", "example", "evilclass.example", "192.0.2.8", "2001:db8::1"])
def test_a_leaf_that_the_ca_signed_for_somebody_else_is_rejected(ca, host, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(ca, leaf_for(ca, host), host, tmp_path)


def test_a_ca_without_addresses_vouches_for_no_address(tmp_path):
    ca = class_ca.ensure_class_ca(tmp_path / "tls", NAMES, (), "physics101", now=NOW)
    handshake(ca, leaf_for(ca, "localhost"), "localhost", tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree violation"):
        handshake(ca, leaf_for(ca, "127.0.0.1"), "127.0.0.1", tmp_path)


def test_a_ca_without_names_vouches_for_no_name(tmp_path):
    ca = class_ca.ensure_class_ca(tmp_path / "tls", (), ADDRESSES, "physics101", now=NOW)
    handshake(ca, leaf_for(ca, "127.0.0.1"), "127.0.0.1", tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree violation"):
        handshake(ca, leaf_for(ca, "localhost"), "localhost", tmp_path)


def test_openssl_agrees_about_the_constraints(ca, tmp_path):
    (tmp_path / "ca.pem").write_bytes(ca.certificate)
    verdicts = {}
    for host in ("class.example", "bank.example"):
        (tmp_path / "leaf.pem").write_bytes(leaf_for(ca, host).certificate)
        verdicts[host] = subprocess.run(
            ["openssl", "verify", "-purpose", "sslserver", "-CAfile", tmp_path / "ca.pem", tmp_path / "leaf.pem"],
            capture_output=True,
            check=False,
        ).returncode
    assert verdicts["class.example"] == 0
    assert verdicts["bank.example"] != 0


def test_the_ca_says_critically_what_it_is_for(ca):
    certificate = x509.load_pem_x509_certificate(ca.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical and basic.critical and usage.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.value.key_cert_sign and not usage.value.digital_signature
    assert {str(name.value) for name in constraints.value.permitted_subtrees} == {
        "class.example",
        "localhost",
        "127.0.0.1/32",
        "::1/128",
        "192.0.2.7/32",
    }
    assert certificate.not_valid_after_utc - NOW <= class_ca.LIFETIME


def test_a_leaf_is_what_browsers_want(ca):
    leaf = x509.load_pem_x509_certificate(class_ca.issue_leaf(ca, NAMES, ADDRESSES, now=NOW).certificate)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    listed = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert sorted(listed.get_values_for_type(x509.DNSName)) == sorted(NAMES)
    assert {str(address) for address in listed.get_values_for_type(x509.IPAddress)} == set(ADDRESSES)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=397)
    assert leaf.not_valid_after_utc <= ca.valid_until


def test_the_files_are_roots_and_the_public_one_holds_no_key(ca, tmp_path):
    folder = tmp_path / "tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {"ca.pem", "ca.key"}
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert (folder / "ca.pem").read_bytes() == ca.certificate
    assert b"PRIVATE" not in (folder / "ca.pem").read_bytes()
    assert "PRIVATE" not in repr(ca)


def test_a_second_run_keeps_the_ca(ca, tmp_path):
    again = class_ca.ensure_class_ca(tmp_path / "tls", reversed(NAMES), ("0:0::1", *ADDRESSES), "physics101", now=NOW)
    assert again.certificate == ca.certificate
    assert (ca.is_new, again.is_new) == (True, False)


@pytest.mark.parametrize(
    ("names", "addresses", "later"),
    [
        (("other.example", "localhost"), ADDRESSES, timedelta()),
        (NAMES, ADDRESSES[:1], timedelta()),
        (NAMES, ADDRESSES, timedelta(days=368)),
    ],
    ids=["another name", "another address", "near its end"],
)
def test_the_ca_is_renewed_and_the_old_certificate_kept_aside(ca, tmp_path, names, addresses, later):
    new = class_ca.ensure_class_ca(tmp_path / "tls", names, addresses, "physics101", now=NOW + later)
    aside = list((tmp_path / "tls").glob("ca-*.pem"))
    assert new.is_new and new.certificate != ca.certificate
    assert [path.read_bytes() for path in aside] == [ca.certificate]
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == new.certificate


def test_leaves_of_a_ca_that_was_renewed_are_still_known(ca, tmp_path):
    old = class_ca.issue_leaf(ca, ["ada.localhost"], ())
    new = class_ca.ensure_class_ca(tmp_path / "tls", NAMES, ADDRESSES[:1], "physics101", now=NOW)
    both = replace(new, certificate=class_ca.known_authorities(tmp_path / "tls"))
    for leaf in (old, class_ca.issue_leaf(new, ["ada.localhost"], ())):
        handshake(both, leaf, "ada.localhost", tmp_path)


@pytest.mark.parametrize("username", ["bob", "bob_1", "bob-", "b" * 31])
def test_a_students_own_name_is_no_other_students_and_not_the_classs(ca, tmp_path, username):
    name = NginxFrontEnd("https", NAMES[0], NAMES, 8000).inner_name(username)
    leaf = class_ca.issue_leaf(ca, [name], ())
    handshake(ca, leaf, name, tmp_path)
    for other in ("ada.localhost", "localhost", "class.example"):
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
            handshake(ca, leaf, other, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\0\xff", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_ca_is_made_anew(ca, tmp_path, damage):
    (tmp_path / "tls" / "ca.key").write_bytes(damage)
    assert class_ca.ensure_class_ca(tmp_path / "tls", NAMES, ADDRESSES, "physics101", now=NOW).is_new


def test_a_crash_between_key_and_certificate_is_mended(ca, tmp_path):
    (tmp_path / "tls" / "ca.pem").unlink()
    (tmp_path / "tls" / ".ca.pem.new").write_bytes(b"half")
    again = class_ca.ensure_class_ca(tmp_path / "tls", NAMES, ADDRESSES, "physics101", now=NOW)
    assert not again.is_new
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == ca.certificate


@pytest.mark.parametrize("name", ["*.example", "böse.example", "", ".example"])
def test_a_name_that_no_certificate_can_hold_is_an_input_error(tmp_path, name):
    with pytest.raises(InputError):
        class_ca.ensure_class_ca(tmp_path / "tls", (name,), (), "physics101")


def test_a_stored_leaf_is_used_again_while_it_fits(ca, tmp_path):
    folder = tmp_path / "tls" / "servers"
    first = class_ca.ensure_leaf(ca, folder, "ada", NAMES, ADDRESSES, now=NOW)
    assert class_ca.ensure_leaf(ca, folder, "ada", NAMES, ADDRESSES, now=NOW) == first
    assert stat.S_IMODE((folder / "ada.key").stat().st_mode) == 0o600
    assert class_ca.ensure_leaf(ca, folder, "ada", NAMES[:1], ADDRESSES, now=NOW) != first


@pytest.mark.parametrize("damage", ["key", "certificate", "other ca"])
def test_a_leaf_that_does_not_fit_is_issued_again(ca, tmp_path, damage):
    folder = tmp_path / "servers"
    first = class_ca.ensure_leaf(ca, folder, "ada", NAMES, ADDRESSES, now=NOW)
    other = class_ca.ensure_leaf(ca, folder, "bob", NAMES, ADDRESSES, now=NOW)
    if damage == "key":
        (folder / "ada.key").write_bytes(other.key)
    elif damage == "certificate":
        (folder / "ada.pem").write_bytes(first.certificate[:40])
    else:
        ca = class_ca.ensure_class_ca(tmp_path / "tls", NAMES, ADDRESSES[:1], "physics101", now=NOW)
        ca = class_ca.ensure_class_ca(tmp_path / "tls", NAMES, ADDRESSES, "physics101", now=NOW)
    assert class_ca.ensure_leaf(ca, folder, "ada", NAMES, ADDRESSES, now=NOW) != first


def test_a_leaf_near_the_end_of_its_ca_is_not_issued_at_every_launch(ca, tmp_path):
    late = NOW + timedelta(days=360)
    first = class_ca.ensure_leaf(ca, tmp_path, "ada", NAMES, ADDRESSES, now=late)
    assert class_ca.ensure_leaf(ca, tmp_path, "ada", NAMES, ADDRESSES, now=late + timedelta(days=8)) == first


def written(files: TlsFiles, folder: Path) -> tuple[Path, Path]:
    (folder / "site.pem").write_bytes(files.certificate)
    (folder / "site.key").write_bytes(files.key)
    return folder / "site.pem", folder / "site.key"


def test_the_administrators_files_are_taken_as_they_are(ca, tmp_path):
    files = class_ca.issue_leaf(ca, NAMES, ADDRESSES)
    assert load_files(*written(files, tmp_path), NAMES, ADDRESSES) == files


def test_a_wildcard_covers_one_level(ca, tmp_path):
    key = ca.key
    listed = x509.SubjectAlternativeName([x509.DNSName("*.example")])
    parsed = x509.load_pem_x509_certificate(ca.certificate)
    wildcard = (
        x509.CertificateBuilder()
        .subject_name(parsed.subject)
        .issuer_name(parsed.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(listed, critical=False)
        .sign(key, parsed.signature_hash_algorithm)
    )
    pem = wildcard.public_bytes(serialization.Encoding.PEM)
    files = TlsFiles(pem, (tmp_path / "tls" / "ca.key").read_bytes())
    load_files(*written(files, tmp_path), ["class.example"])
    with pytest.raises(InputError, match=r"does not cover a\.class\.example"):
        load_files(*written(files, tmp_path), ["a.class.example"])


def test_every_problem_of_the_administrators_files_is_reported_at_once(ca, tmp_path):
    leaf, other = class_ca.issue_leaf(ca, NAMES, ADDRESSES), class_ca.issue_leaf(ca, NAMES, ADDRESSES)
    paths = written(TlsFiles(leaf.certificate, other.key), tmp_path)
    with pytest.raises(InputError) as caught:
        load_files(*paths, ["bank.example"], now=NOW + timedelta(days=500))
    assert len(caught.value.problems) == 3
    assert "does not belong" in str(caught.value)
    assert "expired on" in str(caught.value)
    assert "does not cover bank.example" in str(caught.value)


def test_unreadable_and_senseless_files_are_input_errors(ca, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError) as caught:
        load_files(tmp_path / "absent", tmp_path / "fifo")
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="not a PEM certificate"):
        load_files(tmp_path / "text", tmp_path / "text")


def test_a_key_with_a_passphrase_is_refused_in_words(ca, tmp_path):
    encrypted = ca.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(InputError, match="passphrase"):
        load_files(*written(TlsFiles(ca.certificate, encrypted), tmp_path))


def test_a_fingerprint_is_what_openssl_shows(ca, tmp_path):
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=ca.certificate, capture_output=True, check=True
    )
    assert shown.stdout.decode().strip().split("=")[1] == ca.fingerprint
