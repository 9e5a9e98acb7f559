"""What the front page is given at its start, over descriptors: nothing about the class is read from disk."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from nblauncher.model import TlsFiles
from nblauncher.web.visitors import Arrival, form_target


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A student as the front page needs them."""

    uid: int
    port: int
    hashed: str = field(repr=False)
    """Jupyter's argon2 hash of the notebook password."""


@dataclass(frozen=True, slots=True)
class ClassPage:
    """The class that this front page is for."""

    course: str
    interface: str
    """notebook | lab"""
    front_port: int
    hosts: frozenset[str]
    """The hosts that are answered, in their canonical spelling."""
    has_tls: bool
    ca_pem: bytes | None
    ca_fingerprint: str | None
    students: Mapping[str, Enrolled]
    routing: str = ""
    """ports | hosts | paths: behind a proxy, whose headers are believed; empty: there is none."""
    host: str = ""
    """The one that stands in every address."""

    def server_of(self, username: str, came: Arrival) -> tuple[str, str]:
        """Origin of the student's server for a browser that came in this way, and the CSP source for it."""
        if self.routing == "hosts":
            origin = f"{self.scheme}://{username}.{self.host}:{self.front_port}"
            return origin, origin
        if self.routing == "paths":
            return f"{self.scheme}://{came.authority}", "'self'"
        port = self.students[username].port
        return f"{self.scheme}://{came.in_url}:{port}", form_target(self.scheme, came.host, port)

    @property
    def scheme(self) -> str:
        return "https" if self.has_tls else "http"


def parse_config(content: bytes) -> ClassPage:
    """The class from the supervisor's JSON. KeyError, TypeError or ValueError are bugs of whoever wrote it."""
    given = json.loads(content)
    return ClassPage(
        course=str(given["course"]),
        interface=str(given["interface"]),
        front_port=int(given["front_port"]),
        hosts=frozenset(map(str, given["hosts"])),
        has_tls=bool(given["tls"]),
        ca_pem=None if given["ca_pem"] is None else str(given["ca_pem"]).encode("ascii"),
        ca_fingerprint=given["ca_fingerprint"],
        routing=str(given["routing"]),
        host=str(given["host"]),
        students={
            username: Enrolled(int(one["uid"]), int(one["port"]), str(one["hash"]))
            for username, one in given["students"].items()
        },
    )


def render_config(page: ClassPage) -> bytes:
    """The JSON that `parse_config` reads, for whoever starts a front page. It holds the hashes: sealed memfds only."""
    content = {
        "course": page.course,
        "interface": page.interface,
        "front_port": page.front_port,
        "hosts": sorted(page.hosts),
        "tls": page.has_tls,
        "ca_pem": None if page.ca_pem is None else page.ca_pem.decode("ascii"),
        "ca_fingerprint": page.ca_fingerprint,
        "routing": page.routing,
        "host": page.host,
        "students": {
            username: {"uid": student.uid, "port": student.port, "hash": student.hashed}
            for username, student in page.students.items()
        },
    }
    return json.dumps(content).encode("ascii")


def read_and_close(descriptor: int) -> bytes:
    """The whole content of a memfd or file, from its beginning; the descriptor is closed."""
    try:
        parts = []
        offset = 0
        while part := os.pread(descriptor, 1 << 20, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate.

    `load_cert_chain` wants a path: a memfd of our own gives one whoever made the descriptors that we were given, and
    must be read before the process stops being dumpable (then /proc/self is root's).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    descriptor = os.memfd_create("nblauncher-front-page", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(files.certificate + b"\n" + files.key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
